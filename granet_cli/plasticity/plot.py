"""The chart of ``granet plasticity``: a panel for each kind of regeneration, a line for each rate.

Panels share their axes. In those with regeneration the lines without it are drawn too, thin and dotted, so that what
regeneration gains is the distance between two lines of one colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from granet.errors import UsageError, counted
from granet_cli.charts import parts, render
from granet_cli.charts.palette import DASHES, FAINT, colour
from granet_cli.charts.parts import Curve, Spec

if TYPE_CHECKING:
    from granet.plasticity.curves import LearningRateDrop, RecoveryCurve
    from granet.plasticity.report import PlasticityReport

_TITLES = {
    "none": "pruned",
    "pruned": "pruned, as many regrown",
    "swap": "pruned, then swapped as in GraNet",
}
_DASHES = {"none": DASHES[0], "pruned": DASHES[1], "swap": DASHES[3]}
_WIDTH, _HEIGHT = 240, 240
_APART = 2.5
"""Pixels between the error bars of neighbouring rates."""


def draw(file: Path, report: PlasticityReport) -> None:
    """Write the chart.

    Raises:
        UsageError: no cell was trained to its end.
        FileError: the file cannot be written.
    """
    if all(point.plasticity is None for curve in report.curves for point in curve.points):
        raise UsageError("training diverged in every cell, so there is nothing to draw", where="--plot")
    render.write(file, chart(report))


def chart(report: PlasticityReport) -> Spec:
    """Return the panels, side by side."""
    regenerations = list(dict.fromkeys(curve.regeneration for curve in report.curves))
    rates = list(dict.fromkeys(curve.rate for curve in report.curves))
    epochs = sorted({point.epoch for curve in report.curves for point in curve.points})
    room = 0.06 * max(epochs[-1] - epochs[0], 1.0)
    x = parts.axis("epoch at which it was pruned", epochs[0] - room, epochs[-1] + room)
    ends = [0.0, *_ends(report)]
    # Learning rates are written at the top.
    ends.append(max(ends) + (0.12 * max(max(ends) - min(ends), 1.0) if report.drops else 0.0))
    y = parts.linear_axis("plasticity, percentage points", ends)
    lines = 14 + 40 * len(regenerations)  # characters that a line of the title has room for
    return {
        "title": {
            "text": textwrap.wrap(_subject(report), lines),
            "subtitle": textwrap.wrap(_remarks(report, regenerations), lines * 5 // 4),
        },
        "hconcat": [_panel(report, regeneration, rates, x, y) for regeneration in regenerations],
        "spacing": 30,
    }


def _panel(report: PlasticityReport, regeneration: str, rates: Sequence[float], x: Spec, y: Spec) -> Spec:
    low, high = x["scale"]["domain"]
    curves = []
    for curve in report.curves:
        if curve.regeneration == regeneration:
            number = rates.index(curve.rate)
            shift = _APART * (number - (len(rates) - 1) / 2) / _WIDTH * (high - low)
            known = [(point.epoch, point.plasticity) for point in curve.points if point.plasticity is not None]
            curves.append(
                Curve(
                    points=[(epoch + shift, 100 * statistic.mean) for epoch, statistic in known],
                    deviations=[None if one.deviation is None else 100 * one.deviation for _, one in known],
                    number=number,
                    label=f"{100 * curve.rate:.4g} %",
                    markers=True,
                    dash=_DASHES[regeneration],
                )
            )
    bare = [curve for curve in report.curves if curve.regeneration == "none" and regeneration != "none"]
    layers = [
        parts.rules([0.0], channel="y"),
        *_mark_drops(report.drops, low, high),
        *(_without_regeneration(curve, rates.index(curve.rate)) for curve in bare),
        *parts.curve_layers(curves, legend={"title": "share pruned", "orient": "right"}),
    ]
    return parts.panel(_TITLES[regeneration], x, y, layers, width=_WIDTH, height=_HEIGHT)


def _without_regeneration(curve: RecoveryCurve, number: int) -> Spec:
    rows = [{"x": p.epoch, "y": 100 * p.plasticity.mean} for p in curve.points if p.plasticity is not None]
    mark = {"type": "line", "strokeDash": [1, 3], "strokeWidth": 1.2, "color": colour(number)}
    return {"data": {"values": rows}, "mark": mark}


def _ends(report: PlasticityReport) -> list[float]:
    """Return the ends of all error bars, in percentage points."""
    known = [point.plasticity for curve in report.curves for point in curve.points if point.plasticity is not None]
    return [100 * (one.mean + sign * (one.deviation or 0.0)) for one in known for sign in (-1, 1)]


def _mark_drops(drops: Sequence[LearningRateDrop], low: float, high: float) -> list[Spec]:
    """Return a line at every drop of the learning rate within the axis, and above the plot the rates between them."""
    inside = [drop for drop in drops if low < drop.epoch < high]
    if not inside:
        return []
    ends = [low, *(drop.epoch for drop in inside), high]
    rates = [inside[0].before, *(drop.after for drop in inside)]
    rows = [
        {"px": (0.5 * (left + right) - low) / (high - low) * _WIDTH, "py": 2, "text": f"{rate:g}"}
        for (left, right), rate in zip(pairwise(ends), rates, strict=True)
    ]
    narrow = min(right - left for left, right in pairwise(ends)) < 0.15 * (high - low)
    texts = parts.text_layer(
        rows, color=FAINT, fontSize=9, **({"angle": 270, "align": "right"} if narrow else {"baseline": "top"})
    )
    return [parts.rules([drop.epoch for drop in inside], channel="x", dotted=True), texts]


def _subject(report: PlasticityReport) -> str:
    first = report.cells[0]
    seeds = f"{len(report.seeds)} seeds" if len(report.seeds) > 1 else f"seed {report.seeds[0]}"
    return (
        f"{report.recipe.method.name}, {report.recipe.model.name} on {report.recipe.data.name}, {seeds}: "
        f"accuracy {counted(first.epochs, 'epoch')} after pruning minus accuracy before"
    )


def _remarks(report: PlasticityReport, regenerations: Sequence[str]) -> str:
    remarks = [f"{report.cells[0].scope} pruning, {report.cells[0].examples:,} validation images"]
    if len(report.seeds) > 1:
        remarks.append("error bars: sample standard deviation over seeds, side by side")
    if "none" in regenerations and len(regenerations) > 1:
        remarks.append("dotted: without regeneration")
    if report.drops:
        remarks.append("at the top: learning rates")
    return "; ".join(remarks)
