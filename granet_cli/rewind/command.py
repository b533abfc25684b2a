"""``granet rewind``: prune a trained network, set it back, and train it again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options
from granet_cli.options import option


class Mode(StrEnum):
    """Mode of a rewind: set back the learning rate, the weights too, or neither."""

    LR = "lr"
    WEIGHTS = "weights"
    FINETUNE = "finetune"


_WHAT, _PRUNING, _TRAINING, _RUN = "What is set back", "Pruning", "Retraining", "The run"


def rewind(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="CKPT", help="The trained network: a checkpoint of granet.", show_default=False),
    ] = None,
    mode: Annotated[
        Mode | None,
        option(
            "lr: the clock alone; weights: the whole state of a rewind point; finetune: nothing, at a "
            "constant learning rate.",
            panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        option(
            "When: 10ep, 5000it, or a share of the training such as 0.1. Fine-tuning lasts as long as a "
            "rewind to that time would.  [default: the start; required for weights]",
            metavar="TIME",
            panel=_WHAT,
        ),
    ] = None,
    density: Annotated[
        float | None,
        option("Share of the weights active at the end.  [default: as in CKPT]", metavar="SHARE", panel=_PRUNING),
    ] = None,
    rounds: Annotated[
        int | None, option("Prune and retrain that often, in equal shares.", metavar="N", panel=_PRUNING)
    ] = None,
    rate: Annotated[
        float | None, option("Prune that share of the active weights in each round.", metavar="SHARE", panel=_PRUNING)
    ] = None,
    scope: Annotated[
        options.PruningScope | None,
        option(
            "global: the smallest weights wherever they are; uniform: the same share of each layer.  [default: global]",
            panel=_PRUNING,
        ),
    ] = None,
    regrow: Annotated[
        bool, option("Keep swapping weights as GraNet does; otherwise masks stay.", "--regrow", panel=_TRAINING)
    ] = False,
    lr: Annotated[
        float | None,
        option(
            "Learning rate of a fine-tuning.  [default: the last one of the training]", metavar="RATE", panel=_TRAINING
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        option("How to train imported weights, of which nothing is known.", metavar="NAME|FILE", panel=_TRAINING),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        option(
            "A setting that leaves the course of training alone, such as method.interval=100it with --regrow,"
            " or data.workers=2. Can be repeated.",
            "--set",
            metavar="KEY=VALUE",
            panel=_TRAINING,
        ),
    ] = None,
    keep_every: options.KeepEvery = None,
    keep_last: options.KeepLast = None,
    data: options.MovedData = None,
    out: Annotated[
        Path | None,
        option(
            "Folder of the run, or of its rounds.  [default: runs/RECIPE-MODE, numbered when that exists]",
            metavar="DIR",
            panel=_RUN,
        ),
    ] = None,
    resume: Annotated[Path | None, option("Resume the rewind in DIR.", metavar="DIR", panel=_RUN)] = None,
    dry_run: Annotated[
        bool, option("Say what would be trained and what it costs, and stop.", "--dry-run", panel=_RUN)
    ] = False,
    model: options.Confirmed = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Prune a trained network further, or not at all, and recover its accuracy by rewinding.

    Renda et al. 2020: prune the smallest weights, then retrain with the learning rate set back (lr), with the
    weights set back too (weights), or neither (finetune). In one go, or in rounds. Ctrl-C loses nothing.

    \b
    Examples:
      granet rewind runs/a/last.safetensors --mode lr --density 0.05 --out runs/b
      granet rewind runs/a/last.safetensors --mode weights --to 10ep --density 0.05
      granet rewind runs/a/last.safetensors --mode lr --rate 0.2 --density 0.1 --dry-run
      granet rewind imported.safetensors --mode finetune --density 0.5 --data ./photos
      granet rewind --resume runs/b
    """
    from granet import training
    from granet.errors import Interrupted, UsageError
    from granet.recipe import Recipe
    from granet.rewinding.plan import RewindRequest
    from granet.rewinding.preview import preview
    from granet.runs import sessions
    from granet.training import rounds as rewinding_rounds
    from granet.training.run import capture
    from granet_cli import progress
    from granet_cli.render import Screen, print_json, say
    from granet_cli.rewind import session
    from granet_cli.rewind import view as rewind_tables

    given = {
        "--mode": mode,
        "--to": to,
        "--density": density,
        "--rounds": rounds,
        "--rate": rate,
        "--scope": scope,
        "--regrow": regrow,
        "--lr": lr,
        "--recipe": recipe,
        "--set": assignments,
        "--keep-every": keep_every,
        "--keep-last": keep_last,
        "--out": out,
        "--dry-run": dry_run,
        "--overwrite": overwrite,
        "--model": model,
    }
    torch_device = training.resolve_device(device)
    screen = Screen(stderr=json)
    planned = None
    if resume is not None:
        session.check_nothing_else(file, given)
        folder = resume
        say(f"resuming {resume}")
    else:
        if file is None or mode is None:
            what = "CKPT" if file is None else "--mode"
            raise UsageError(
                "this is required, unless --resume is given", where=what, remedy="see granet rewind --help"
            )
        asked = RewindRequest(
            checkpoint=file,
            mode=mode.value,
            to=to,
            density=density,
            rounds=rounds,
            rate=rate,
            scope="global" if scope is None else scope.value,
            regrow=regrow,
            learning_rate=lr,
            recipe=None if recipe is None else Recipe.load(recipe),
            settings=session.settings(assignments, keep_every, keep_last, data),
        )
        planned = session.planned(asked, factory=model)
        if dry_run:
            run = planned.begun(torch_device)
            plans = preview(run.model, capture(run))
            if json:
                print_json(rewind_tables.plan_as_json(planned.recipe, plans))
            else:
                rewind_tables.show_plan(screen, plans)
            return
        folder = session.folder(out, planned.recipe, overwrite=overwrite)
        say(session.headline(planned.recipe, folder))
    try:
        with (
            training.stop_on_signals() as stop,
            progress.training_display(screen, stopping=stop, device_asked=device) as shown,
        ):
            watch = sessions.recording(shown)
            if planned is None:
                directory = None if data is None else data.absolute()
                rows = rewinding_rounds.resume_rewind(folder, torch_device, directory=directory, watch=watch, stop=stop)
            else:
                rows = rewinding_rounds.rewind(
                    planned.recipe,
                    folder,
                    torch_device,
                    dataset=planned.dataset,
                    overwrite=overwrite,
                    watch=watch,
                    stop=stop,
                )
    except (Interrupted, KeyboardInterrupt) as stopped:
        where = getattr(stopped, "where", None)
        flags = {"--device": device if device != "auto" else None, "--data": data, "--json": json}
        message, command = session.stopped_message(folder, where, flags)
        say(message, command=command)
        raise typer.Exit(130) from stopped
    finally:
        if out is None and resume is None:
            session.tidy(folder)
    print_json(rewind_tables.as_json(folder, rows)) if json else rewind_tables.show(screen, folder, rows)
