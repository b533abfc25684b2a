"""A plasticity report for people: blocks of checkpoints by rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.render import FAINT, Column, Screen, table

if TYPE_CHECKING:
    from granet.analysis.comparison import Statistic
    from granet.plasticity.curves import CurvePoint, Plasticity, RecoveryCurve
    from granet.plasticity.grid import Grid

KINDS = {
    "none": "without regeneration",
    "pruned": "as many regrown as were pruned",
    "swap": "swapped at the pruned density",
}
"""The kinds of regeneration in words."""


def numbers(text: str) -> tuple[float, ...]:
    """The numbers that ``text`` lists, separated by commas.

    Raises:
        UsageError: it does not.
    """
    from granet.errors import UsageError

    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise UsageError("not numbers", where="--rates", got=repr(text), expected="such as 0.2,0.5,0.9") from None


def words(text: str) -> tuple[str, ...]:
    """The words that ``text`` lists, separated by commas."""
    return tuple(word.strip() for word in text.split(","))


def plan_as_json(grid: Grid) -> dict[str, Any]:
    """What would be measured, as plain dictionaries, lists and numbers."""
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
    """One line that says what is going to be measured."""
    jobs, sources, runs = grid.jobs, grid.sources, grid.runs
    where = f"{len(sources)} checkpoints of {len(runs)} run{'s' if len(runs) > 1 else ''}"
    rates = len({job.rate for job in jobs})
    kinds = len({job.regeneration for job in jobs})
    epochs = grid.settings.epochs
    return (
        f"{len(jobs)} cells: {where}, {rates} rate{'s' if rates > 1 else ''}, {kinds} kind"
        f"{'s' if kinds > 1 else ''} of regeneration; {grid.settings.scope} pruning, "
        f"then {epochs} epoch{'s' if epochs > 1 else ''} at a frozen learning rate"
    )


def show(screen: Screen, report: Plasticity) -> None:
    """Writes the tables."""
    first = report.cells[0]
    seeds = f"{len(report.seeds)} seeds" if len(report.seeds) > 1 else f"seed {report.seeds[0]}"
    epochs = f"{first.epochs} epoch{'s' if first.epochs > 1 else ''}"
    screen.prose(
        f"{report.recipe.name}, {report.recipe.model.name} on {report.recipe.data.name}, {seeds}: "
        f"{first.scope} pruning, {epochs} at the learning rate of the checkpoint, {first.examples:,} validation images"
    )
    for kind in dict.fromkeys(curve.regeneration for curve in report.curves):
        mine = [curve for curve in report.curves if curve.regeneration == kind]
        screen.print()
        screen.print(Text(f"plasticity in points, {KINDS[kind]}, by the share pruned", style="bold"))
        screen.print(_fitting(screen, mine, lambda point: point.plasticity, _points))
    for kind in dict.fromkeys(curve.regeneration for curve in report.curves):
        if kind == "pruned":
            continue  # what grows is zero, and changes no answer before it is trained
        mine = [curve for curve in report.curves if curve.regeneration == kind]
        screen.print()
        screen.print(Text(f"accuracy right after pruning, {KINDS[kind]}", style="bold"))
        screen.print(_fitting(screen, mine, lambda point: point.pruned, _shares))
    remarks = ["LR: learning rate; before: accuracy of the checkpoint"]
    if len(report.seeds) > 1:
        remarks.append("±: sample standard deviation over seeds")
    if diverged := sum(point.diverged for curve in report.curves for point in curve.points):
        remarks.append(f"*: training diverged, {diverged} times in all, and these are left out")
    screen.print()
    for remark in remarks:
        screen.print(Text(remark, style=FAINT))


def _fitting(
    screen: Screen,
    curves: Sequence[RecoveryCurve],
    figure: Callable[[CurvePoint], Statistic | None],
    written: Callable[[Sequence[Statistic | None]], list[str]],
) -> Text:
    """The table with as much room between its columns as there is."""
    roomy = _block(curves, figure, written, gap=2)
    widest = max(line.cell_len for line in roomy.split())
    return roomy if screen.columns is None or widest <= screen.columns else _block(curves, figure, written, gap=1)


def _block(
    curves: Sequence[RecoveryCurve],
    figure: Callable[[CurvePoint], Statistic | None],
    written: Callable[[Sequence[Statistic | None]], list[str]],
    *,
    gap: int,
) -> Text:
    steps = {point.step: point for curve in curves for point in curve.points}
    moments = [steps[step] for step in sorted(steps)]
    columns = [Column("epoch", right=True), Column("LR", right=True), Column("before", right=True)]
    cells = [
        [f"{moment.epoch:.4g}" for moment in moments],
        [f"{moment.learning_rate:g}" for moment in moments],
        _shares([moment.before for moment in moments]),
    ]
    for curve in curves:
        points = {point.step: point for point in curve.points}
        there = [points.get(moment.step) for moment in moments]
        texts = written([None if point is None else figure(point) for point in there])
        marks = ["*" if point is not None and point.diverged else "" for point in there]
        columns.append(Column(f"{curve.rate:.4g}", right=True))
        width = max(map(len, marks))
        cells.append([text + mark.ljust(width) for text, mark in zip(texts, marks, strict=True)])
    return table(columns, list(zip(*cells, strict=True)), gap=gap, width=None)


def _shares(statistics: Sequence[Statistic | None]) -> list[str]:
    return _padded(statistics, lambda mean: f"{100 * mean:.1f}%")


def _points(statistics: Sequence[Statistic | None]) -> list[str]:
    return _padded(statistics, lambda mean: f"{100 * mean:+.1f}")


def _padded(statistics: Sequence[Statistic | None], written: Callable[[float], str]) -> list[str]:
    """Means and deviations, so padded that digits align when set to the right."""
    behind = ["" if s is None or s.deviation is None else f" ± {100 * s.deviation:.1f}" for s in statistics]
    width = max(map(len, behind), default=0)
    return [
        ("-" if s is None else written(s.mean)) + rest.ljust(width) for s, rest in zip(statistics, behind, strict=True)
    ]
