"""``granet history``: every change of a run's masks, replayed without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options
from granet_cli.options import option


def history(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    at: Annotated[
        int | None, option("Show the masks as they were after this step instead.", metavar="STEP", show_default=False)
    ] = None,
    masks: Annotated[
        Path | None,
        option(
            "With --at: write these masks as a safetensors file, which granet import --mask-file reads.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        options.plot("densities, exploration, churn and survival"),
    ] = None,
    verify: Annotated[
        bool, option("Replay to the masks of every checkpoint, and exit with 1 where they differ.", "--verify")
    ] = False,
    overwrite: options.Replace = False,
    method: options.ConfirmedMethod = None,
    json: options.Json = False,
) -> None:
    """Replay what the masks of a run did, update by update.

    A run keeps every change of its masks in history.bin, at about the cost of its entropy. What lies past the newest
    checkpoint is not shown: a run that is going on may do it once more.

    \b
    Columns:
      lost      weights that were active before the update and are not any more
      gained    the other way round; churn is their share of the active weights
      regrown   those gained that had been active at some time before
      explored  share of the weights that have been active at some time
      initial   share of the first active weights that have been active ever since
    \b
    Examples:
      granet history runs/a
      granet history runs/a --plot history.svg
      granet history runs/a --verify
      granet history runs/a --at 1000 --masks masks.safetensors
      granet history runs/a --json | jq '.updates[] | [.step, .churn]'
    """
    from granet.analysis import history as analysis
    from granet.errors import UsageError
    from granet.history.replay import Replay
    from granet.methods import confirm
    from granet_cli.charts.render import check_plot
    from granet_cli.history import view
    from granet_cli.history.plot import draw
    from granet_cli.render import Screen, print_json, say
    from granet_cli.targets import check_target

    if at is None and masks is not None:
        raise UsageError("this needs a step", where="--masks", remedy="add --at STEP")
    if at is not None and (plot is not None or verify):
        raise UsageError("cannot be combined with --plot or --verify", where="--at", remedy="leave one of them out")
    if overwrite and masks is None and plot is None:
        raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name a file with --plot")
    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    if masks is not None:
        check_target(masks, overwrite=overwrite)
    if method is not None:
        confirm(method)
    replay = Replay.open(run)
    if at is not None:
        found = replay.masks_at(at)
        if masks is not None:
            view.write_masks(masks, found)
            say(f"{masks}: the masks at step {at:,}")
        moment = view.masks_as_json(run, at, found)
        print_json(moment) if json else view.show_masks(Screen(), moment)
        return
    report = analysis.report_history(replay)
    findings = replay.verify() if verify else None
    if plot is not None:
        draw(plot, report)
    if json:
        print_json(report.as_json() | ({} if findings is None else {"verified": view.findings_as_json(findings)}))
    else:
        view.show(Screen(), report, findings)
    if plot is not None:
        say(f"{plot}: densities, exploration, churn and survival")
    if findings is not None and any(finding.fault for finding in findings):
        raise typer.Exit(1)
