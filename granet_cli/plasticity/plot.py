"""A plasticity report as a picture: a panel for each kind of regeneration, a line for each rate.

Panels share their axes. In those with regeneration the lines without it are drawn too, thin and dotted, so that what
regeneration gains is the distance between two lines of one colour.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from granet.errors import UsageError, counted
from granet_cli.pictures import COLOURS, GRID, MARKERS, REMARK, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from granet.plasticity.curves import Drop, Plasticity, RecoveryCurve

_TITLES = {
    "none": "pruned",
    "pruned": "pruned, as many regrown",
    "swap": "pruned, then swapped as in GraNet",
}
_STYLES = {"none": "-", "pruned": "--", "swap": "-."}
_APART = 2.5
"""Points (1/72 inch) between the error bars of neighbouring rates."""


def draw(file: Path, report: Plasticity) -> None:
    """Writes the picture.

    Raises:
        UsageError: no cell was trained to its end.
        FileError: the file cannot be written.
    """
    if all(point.plasticity is None for curve in report.curves for point in curve.points):
        raise UsageError("training diverged in every cell, so there is nothing to draw", where="--plot")
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(curve.regeneration for curve in report.curves))
    rates = list(dict.fromkeys(curve.rate for curve in report.curves))
    bare = [curve for curve in report.curves if curve.regeneration == "none"]
    with styled():
        width = max(1.9 + 3.1 * len(kinds), 5.6)
        figure = Figure(figsize=(width, 4.4), layout="constrained")
        panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            if kind != "none":
                for curve in bare:
                    _line(axes, curve, rates, faint=True)
            for curve in report.curves:
                if curve.regeneration == kind:
                    _line(axes, curve, rates, faint=False)
            _frame(axes, _TITLES[kind])
        _scale(panels[0], report)
        for axes in panels:
            _mark_drops(axes, report.drops)
        panels[0].set_ylabel("plasticity, percentage points")
        handles, labels = panels[0].get_legend_handles_labels()
        panels[-1].legend(
            handles, labels, title="share pruned", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
        # About as many characters as an inch has room for, in the one size of letters and in the other.
        figure.suptitle(textwrap.fill(_subject(report), round(14 * width)), x=0.01, ha="left", fontsize=9)
        figure.supxlabel(textwrap.fill(_remarks(report, kinds), round(18 * width)), fontsize=7, color=REMARK)
        save(figure, file)


def _line(axes: Axes, curve: RecoveryCurve, rates: Sequence[float], *, faint: bool) -> None:
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    number = rates.index(curve.rate)
    colour = COLOURS[number % len(COLOURS)]
    known = [(point.epoch, point.plasticity) for point in curve.points if point.plasticity is not None]
    epochs, means = [epoch for epoch, _ in known], [100 * s.mean for _, s in known]
    if faint:
        axes.plot(epochs, means, color=colour, linestyle=":", linewidth=1.0, alpha=0.8)
        return
    deviations = [math.nan if s.deviation is None else 100 * s.deviation for _, s in known]
    figure = axes.figure
    assert isinstance(figure, Figure)  # noqa: S101  they are drawn into one
    shift = _APART * (number - (len(rates) - 1) / 2)
    axes.errorbar(
        epochs,
        means,
        yerr=deviations if any(map(math.isfinite, deviations)) else None,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        linestyle=_STYLES[curve.regeneration],
        linewidth=1.2,
        elinewidth=0.9,
        capsize=2,
        label=f"{100 * curve.rate:.4g} %",
        transform=axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
    )


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("epoch at which it was pruned")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axhline(0, color=REMARK, linewidth=0.8)


def _scale(axes: Axes, report: Plasticity) -> None:
    """Axes that hold every error bar, and room above for what is written at the drops of the learning rate."""
    ends = [0.0]
    for point in (point for curve in report.curves for point in curve.points if point.plasticity is not None):
        assert point.plasticity is not None  # noqa: S101  these were left out
        reach = point.plasticity.deviation or 0.0
        ends += [100 * (point.plasticity.mean - reach), 100 * (point.plasticity.mean + reach)]
    span = max(max(ends) - min(ends), 1.0)
    axes.set_ylim(min(ends) - 0.05 * span, max(ends) + (0.16 if report.drops else 0.05) * span)
    epochs = sorted({point.epoch for curve in report.curves for point in curve.points})
    room = 0.06 * max(epochs[-1] - epochs[0], 1.0)
    axes.set_xlim(epochs[0] - room, epochs[-1] + room)


def _mark_drops(axes: Axes, drops: Sequence[Drop]) -> None:
    """A line at every drop of the learning rate that lies within the axis, and the rates between them."""
    low, high = axes.get_xlim()
    inside = [drop for drop in drops if low < drop.epoch < high]
    for drop in inside:
        axes.axvline(drop.epoch, color=REMARK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    if not inside:
        return
    ends = [low, *(drop.epoch for drop in inside), high]
    rates = [inside[0].before, *(drop.after for drop in inside)]
    narrow = min(right - left for left, right in pairwise(ends)) < 0.15 * (high - low)
    for (left, right), rate in zip(pairwise(ends), rates, strict=True):
        axes.annotate(
            f"{rate:g}",
            ((left + right) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -2),
            textcoords="offset points",
            ha="center",
            va="top",
            rotation=90 if narrow else 0,
            fontsize=7,
            color=REMARK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},  # where a line of the grid is behind it
        )


def _subject(report: Plasticity) -> str:
    first = report.cells[0]
    seeds = f"{len(report.seeds)} seeds" if len(report.seeds) > 1 else f"seed {report.seeds[0]}"
    return (
        f"{report.recipe.method.name}, {report.recipe.model.name} on {report.recipe.data.name}, {seeds}: "
        f"accuracy {counted(first.epochs, 'epoch')} after pruning minus accuracy before"
    )


def _remarks(report: Plasticity, kinds: Sequence[str]) -> str:
    remarks = [f"{report.cells[0].scope} pruning, {report.cells[0].examples:,} validation images"]
    if len(report.seeds) > 1:
        remarks.append("error bars: sample standard deviation over seeds, side by side")
    if "none" in kinds and len(kinds) > 1:
        remarks.append("dotted: without regeneration")
    if report.drops:
        remarks.append("at the top: learning rates")
    return "; ".join(remarks)
