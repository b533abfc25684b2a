"""Results of the plasticity experiment on a terminal: tables of checkpoints by pruning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet.errors import counted
from granet_cli.render import FAINT, Screen
from granet_cli.tables import TableColumn, means, table

if TYPE_CHECKING:
    from granet.analysis.comparison import Statistic
    from granet.plasticity.curves import CurvePoint, RecoveryCurve
    from granet.plasticity.grid import Grid
    from granet.plasticity.report import PlasticityReport

KINDS = {
    "none": "without regeneration",
    "pruned": "as many regrown as were pruned",
    "swap": "swapped at the pruned density",
}
"""What a table of each kind of regeneration is called."""


def plan_as_json(grid: Grid) -> dict[str, Any]:
    """Return what ``--dry-run --json`` prints."""
    return {
        "runs": [str(run) for run in grid.runs],
        "epochs": grid.settings.epochs,
        "scope": grid.settings.scope,
        "drop_fraction": grid.settings.drop_fraction,
        "cells": [
            {
                "checkpoint": str(job.source.path),
                "step": job.source.step,
                "seed": job.source.recipe.seed,
                "learning_rate": job.source.learning_rate,
                "rate": job.rate,
                "regeneration": job.regeneration,
                "steps": job.settings.epochs * job.source.steps_per_epoch,
            }
            for job in grid.jobs
        ],
    }


def headline(grid: Grid) -> str:
    """Return one line that says what is going to be measured."""
    jobs, sources, runs = grid.jobs, grid.sources, grid.runs
    where = f"{len(sources)} checkpoints of {counted(len(runs), 'run')}"
    rates = len({job.rate for job in jobs})
    kinds = len({job.regeneration for job in jobs})
    return (
        f"{len(jobs)} cells: {where}, {counted(rates, 'rate')}, "
        f"{counted(kinds, 'kind')} of regeneration; {grid.settings.scope} pruning, "
        f"then {counted(grid.settings.epochs, 'epoch')} at a frozen learning rate"
    )


def show(screen: Screen, report: PlasticityReport) -> None:
    """Write plasticity and accuracy after pruning, a table for each kind of regeneration."""
    first = report.cells[0]
    seeds = f"{len(report.seeds)} seeds" if len(report.seeds) > 1 else f"seed {report.seeds[0]}"
    epochs = counted(first.epochs, "epoch")
    screen.prose(
        f"{report.recipe.name}, {report.recipe.model.name} on {report.recipe.data.name}, {seeds}: "
        f"{first.scope} pruning, {epochs} at the learning rate of the checkpoint, {first.examples:,} validation images"
    )
    for kind in dict.fromkeys(curve.regeneration for curve in report.curves):
        mine = [curve for curve in report.curves if curve.regeneration == kind]
        screen.print()
        screen.print(Text(f"plasticity in points, {KINDS[kind]}, by the share pruned", style="bold"))
        screen.print(_block(screen, mine, lambda point: point.plasticity, _points))
    for kind in dict.fromkeys(curve.regeneration for curve in report.curves):
        if kind == "pruned":
            continue  # what grows is zero, and changes no answer before it is trained
        mine = [curve for curve in report.curves if curve.regeneration == kind]
        screen.print()
        screen.print(Text(f"accuracy right after pruning, {KINDS[kind]}", style="bold"))
        screen.print(_block(screen, mine, lambda point: point.pruned, _share))
    remarks = ["LR: learning rate; before: accuracy of the checkpoint"]
    if len(report.seeds) > 1:
        remarks.append("±: sample standard deviation over seeds")
    if diverged := sum(point.diverged for curve in report.curves for point in curve.points):
        remarks.append(f"*: training diverged, {diverged} times in all, and these are left out")
    screen.print()
    for remark in remarks:
        screen.print(Text(remark, style=FAINT))


def _block(
    screen: Screen,
    curves: Sequence[RecoveryCurve],
    figure: Callable[[CurvePoint], Statistic | None],
    form: Callable[[float], str],
) -> Text:
    """Lay out a row for each checkpoint and a column for each rate."""
    steps = {point.step: point for curve in curves for point in curve.points}
    moments = [steps[step] for step in sorted(steps)]
    before = means([moment.before for moment in moments], _share, digits=1)
    columns: list[TableColumn[int]] = [
        TableColumn("epoch", lambda row: f"{moments[row].epoch:.4g}", right=True),
        TableColumn("LR", lambda row: f"{moments[row].learning_rate:g}", right=True),
        TableColumn("before", before.__getitem__, right=True),
    ]
    for curve in curves:
        points = {point.step: point for point in curve.points}
        found = [points.get(moment.step) for moment in moments]
        texts = means([None if point is None else figure(point) for point in found], form, digits=1)
        marks = ["*" if point is not None and point.diverged else "" for point in found]
        width = max(map(len, marks))
        cells = [text + mark.ljust(width) for text, mark in zip(texts, marks, strict=True)]
        columns.append(TableColumn(f"{curve.rate:.4g}", cells.__getitem__, right=True))
    return table(screen, columns, range(len(moments)))


def _share(mean: float) -> str:
    return f"{100 * mean:.1f}%"


def _points(mean: float) -> str:
    return f"{100 * mean:+.1f}"
