"""``granet train``: a recipe with the overrides applied, to its end; or a run from where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from granet_cli import options

if TYPE_CHECKING:
    from granet.runs.events import Event
    from granet_cli.train.session import TrainSession


def train(
    recipe: options.Recipe = None,
    method: options.Method = None,
    model: options.Model = None,
    weights: options.Weights = None,
    data: options.Data = None,
    density: options.Density = None,
    initial_density: options.InitialDensity = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    seed: options.Seed = None,
    precision: options.Precision = None,
    keep_every: options.KeepEvery = None,
    keep_last: options.KeepLast = None,
    assignments: options.Assignments = None,
    out: options.Out = None,
    resume: options.Resume = None,
    overwrite: options.Overwrite = False,
    download: options.Download = False,
    no_export_check: options.NoExportCheck = False,
    device: options.Device = "auto",
    tensorboard: options.TensorBoard = False,
    json: options.Json = False,
) -> None:
    """Train a network sparse from the start, or resume a run.

    A recipe holds every setting of a run; flags and --set change single ones, and the result is written into the
    run and into each checkpoint. The first Ctrl-C finishes the step, saves the state and says how to resume.

    \b
    Examples:
      granet train
      granet train --density 0.05 --method rigl --seed 1 --out runs/rigl
      granet train --recipe cifar10-resnet50-granet --data ~/cifar10 --download
      granet train --data ./photos --model torchvision:resnet18 --epochs 30
      granet train --data ./photos --model timm:convnext_atto --weights convnext_atto.safetensors
      granet train --set method.interval=50it --set optimizer.weight_decay=1e-4
      granet train --resume runs/rigl
      torchrun --nproc-per-node 4 -m granet_cli train --recipe cifar10-resnet50-granet --data ~/cifar10 --out runs/a
    """
    from granet import training
    from granet.analysis.inspection import inspect
    from granet.checkpoint import load
    from granet.errors import Interrupted
    from granet.runs import sessions
    from granet.training import distributed
    from granet.training.tensorboard import write_tensorboard
    from granet_cli import overrides, progress, summary
    from granet_cli.render import Screen, print_json, say
    from granet_cli.train import session

    settings = {
        "model.name": model,
        "model.weights": weights,
        "method.density": density,
        "method.initial_density": initial_density,
        "training.batch_size": batch_size,
        "optimizer.learning_rate": lr,
        "seed": seed,
        "training.precision": precision,
        "training.keep_every": keep_every,
        "training.keep_last": keep_last,
    }
    rank = distributed.TorchrunRank.of()
    torch_device = distributed.device_for(device, rank)
    screen = Screen(stderr=json)
    run: TrainSession | None = None
    with training.stop_on_signals(patient=rank.size > 1) as stop:
        try:
            with ExitStack() as stack:
                world = stack.enter_context(distributed.joined(rank, torch_device))
                with world.share_errors():
                    asked = overrides.gather(settings, assignments or (), method=method, epochs=epochs, data=data)
                    run = (
                        session.new_session(
                            recipe,
                            asked,
                            out,
                            overwrite=overwrite,
                            download=download,
                            export_check=not no_export_check,
                            rank=rank,
                        )
                        if resume is None
                        else session.resumed_session(
                            resume, recipe, asked, out, overwrite=overwrite, download=download, rank=rank
                        )
                    )
                watchers: list[Callable[[Event], None]] = []
                if world.is_rank_zero:  # the other ranks would write the same
                    say(run.announcement)
                    shown = stack.enter_context(progress.training_display(screen, stopping=stop, device_asked=device))
                    watchers.append(sessions.recording(shown))
                    if tensorboard:
                        watchers.append(stack.enter_context(write_tensorboard(run.folder)))
                run.start(
                    torch_device, world=world, watch=lambda event: [watch(event) for watch in watchers], stop=stop
                )
        except (Interrupted, KeyboardInterrupt) as stopped:
            if run is None:
                raise
            if rank.rank == 0:
                flags = {
                    "--device": device if device != "auto" else None,
                    "--data": data if resume is not None else None,
                    "--tensorboard": tensorboard,
                    "--json": json,
                }
                message, command = session.stopped_message(
                    run.folder, getattr(stopped, "where", None), flags, rank=rank
                )
                say(message, command=command)
            raise typer.Exit(130) from stopped
    if rank.rank != 0:
        return
    checkpoint = load(run.folder.last)
    end = inspect(checkpoint, factory=checkpoint.network.name)
    print_json(summary.as_json(run.folder, end)) if json else summary.show(screen, run.folder, end)
