"""``granet compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from granet_cli import options
from granet_cli.options import option


def _complete_order(incomplete: str) -> list[str]:
    from granet_cli.compare.view import ORDERS

    return [name for name in ORDERS if name.startswith(incomplete)]


def compare(
    runs: options.Runs,
    sort: Annotated[
        str,
        option(
            "given (as they are named), method, density, accuracy, validation, flops or size; numbers from the largest "
            "down.",
            metavar="COLUMN",
            complete=_complete_order,
        ),
    ] = "given",
    settings: Annotated[bool, option("Show the settings that are not the same in all rows.", "--settings")] = False,
    plot: Annotated[Path | None, options.plot("density against test accuracy")] = None,
    overwrite: Annotated[bool, option("Replace the file of --plot if it is there.", "--overwrite")] = False,
    model: options.Confirmed = None,
    json: options.Json = False,
) -> None:
    """Show runs side by side: accuracy, density, cost and size.

    Runs that differ in nothing but their seed share a row, with mean and sample standard deviation. Each round of a
    rewind has a row of its own. Damaged runs and folders that are not runs are reported, and the others shown.

    \b
    Columns:
      test        accuracy of the best epoch on the test set, which was met once
      validation  accuracy of that epoch on the validation split, by which it was chosen
      FLOPs       of inference with that checkpoint, in per cent of the dense network's
      size        of that checkpoint, best.safetensors
    \b
    Examples:
      granet compare runs
      granet compare runs/granet-* runs/rigl-* --sort accuracy --settings
      granet compare runs/lr runs/finetune --plot rewinding.svg
      granet compare runs --json | jq '.groups[] | {method, accuracy: .test_accuracy.mean}'
    """
    from dataclasses import replace

    from granet.analysis import comparison
    from granet.errors import GranetError, UsageError
    from granet_cli.charts.render import check_plot
    from granet_cli.compare.plot import draw
    from granet_cli.compare.view import ORDERS, show
    from granet_cli.layers import arrange
    from granet_cli.render import Screen, print_json, say

    if "" in runs:
        raise UsageError("the path is empty; write . for the working directory", where="RUN")
    arrange((), sort, ORDERS)
    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    elif overwrite:
        raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name the picture with --plot")
    found = comparison.compare(runs, factory=model)
    for problem in found.problems:
        say(problem.message)
    if not found.runs:
        raise GranetError("there is nothing to compare", where=", ".join(runs), expected="folders of runs")
    if model is not None and all(run.model != model for run in found.runs):
        raise UsageError("none of the runs has this network", where="--model", got=model)
    found = replace(found, groups=arrange(found.groups, sort, ORDERS))
    if plot is not None:
        draw(plot, found.groups)
    print_json(found.as_json()) if json else show(Screen(), found, settings=settings)
    if plot is not None:
        say(f"{plot}: density against test accuracy")
