"""``granet plasticity``: how well a network recovers from pruning, over its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options
from granet_cli.options import option

_WHAT, _RUN = "What is measured", "The grid"


def plasticity(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of finished runs, which stand for the checkpoints kept in them, patterns for such, or single "
            "checkpoints. Several runs are one training under different seeds.",
            show_default=False,
        ),
    ],
    epochs: Annotated[
        int,
        option(
            "How long a pruned network is trained. The paper has 30 on CIFAR.",
            metavar="N",
            panel=_WHAT,
            show_default=False,
        ),
    ],
    rates: Annotated[
        str, option("Shares of the active weights to prune.", metavar="SHARE,...", panel=_WHAT)
    ] = "0.2,0.5,0.9,0.98",
    regeneration: Annotated[
        str,
        option(
            "none; pruned: each layer regrows as many weights as it lost; swap: each layer drops and grows a "
            "share, as GraNet does.",
            metavar="KIND,...",
            panel=_WHAT,
        ),
    ] = "none,pruned",
    drop_fraction: Annotated[float, option("What swap drops and grows.", metavar="SHARE", panel=_WHAT)] = 0.5,
    scope: Annotated[
        options.PruningScope,
        option("global: the smallest weights wherever they are; uniform: the same share of each layer.", panel=_WHAT),
    ] = options.PruningScope.GLOBAL,
    out: Annotated[
        Path | None,
        option("Folder of the results.  [default: RUN/plasticity, for each RUN]", metavar="DIR", panel=_RUN),
    ] = None,
    data: options.MovedData = None,
    workers: Annotated[
        int | None,
        option(
            "Processes that decode images.  [default: as in the runs]",
            metavar="N",
            min=0,
            panel=_RUN,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, option("Say what would be measured, and stop.", "--dry-run", panel=_RUN)] = False,
    plot: Annotated[
        Path | None,
        options.plot("plasticity over the training", _RUN),
    ] = None,
    overwrite: Annotated[bool, option("Replace the file of --plot if it is there.", "--overwrite", panel=_RUN)] = False,
    model: options.Confirmed = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Measure how well a network recovers from being pruned, at every checkpoint of its training.

    Liu et al. 2021, section 3. Each kept checkpoint (granet train --keep-every) is pruned in one go and trained on with
    fixed masks, at the learning rate that it had reached. Plasticity is the accuracy then minus that before pruning,
    on the validation split; the test set is left alone. Ctrl-C keeps all finished cells of the grid; the same command
    goes on with the others, and one that lacks none only shows them.

    \b
    Examples:
      granet plasticity runs/a --epochs 30
      granet plasticity runs/seed-* --epochs 30 --regeneration none,pruned,swap --plot plasticity.svg
      granet plasticity runs/a/step-00000500.safetensors --epochs 2 --rates 0.9 --scope uniform
      granet plasticity runs/a --epochs 30 --json | jq '.curves[] | {rate, regeneration}'
    """
    from granet import training
    from granet.errors import Interrupted, UsageError
    from granet.plasticity import experiment, grid
    from granet_cli.charts.render import check_plot
    from granet_cli.overrides import check_network
    from granet_cli.plasticity import progress, view
    from granet_cli.plasticity.plot import draw
    from granet_cli.render import Screen, print_json, say

    if "" in runs:
        raise UsageError("the path is empty; write . for the working directory", where="RUN")
    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    elif overwrite:
        raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name the picture with --plot")
    torch_device = training.resolve_device(device)
    settings = grid.GridSettings(epochs=epochs, scope=scope.value, drop_fraction=drop_fraction)
    planned = grid.plan(
        runs,
        settings,
        options.parse_numbers(rates, "--rates", "0.2,0.5,0.9", number=float),
        [kind.strip() for kind in regeneration.split(",")],
        workers=workers,
    )
    check_network(planned.sources[0].outline, model)
    for remark in planned.remarks:
        say(remark)
    say(view.headline(planned))
    if dry_run:
        if json:
            print_json(view.plan_as_json(planned))
        return
    screen = Screen(stderr=True)  # so that the tables, alone on standard output, are the same after every stop
    try:
        with training.stop_on_signals() as stop, progress.grid_display(screen, stopping=stop) as watch:
            report = experiment.run(
                planned, torch_device, out=out, directory=data, factory=model, watch=watch, stop=stop
            )
    except (Interrupted, KeyboardInterrupt) as stopped:
        say("stopped; finished cells are kept, and the same command goes on with the others")
        raise typer.Exit(130) from stopped
    if plot is not None:
        draw(plot, report)
    print_json(report.as_json()) if json else view.show(Screen(), report)
    if plot is not None:
        say(f"{plot}: plasticity over the training")
