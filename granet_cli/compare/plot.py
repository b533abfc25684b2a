"""A comparison as a picture: density against test accuracy, a curve for all that differ in density alone."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from granet_cli.pictures import COLOURS as COLOURS
from granet_cli.pictures import GRID, REMARK, save, styled
from granet_cli.pictures import MARKERS as MARKERS
from granet_cli.pictures import check_plot as check_plot
from granet_cli.render import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from granet.analysis.comparison import ComparisonCurve, RunGroup

_MODES = {"lr": "LR rewinding", "weights": "weight rewinding", "finetune": "fine-tuning"}
_APART = 5.0
"""Points (1/72 inch) between error bars that would lie on each other."""
_MARGIN, _NARROWEST = 10.0, 250.0
"""Points left free at both ends of the axis, and about the least that it is long."""
_LABEL = 40
"""Characters in a line of the legend."""


def draw(file: Path, groups: Iterable[RunGroup]) -> None:
    """Writes the picture of all ``groups`` that were tested.

    Raises:
        UsageError: there is none, or one of them has no active weights.
        FileError: the file cannot be written.
    """
    from granet.analysis.comparison import curves
    from granet.errors import UsageError

    tested = [group for group in groups if group.test_accuracy is not None]
    if not tested:
        raise UsageError("none of the runs has been tested yet, so there is nothing to draw", where="--plot")
    for group in tested:
        if group.density <= 0:
            raise UsageError(
                "a network without active weights has no place on a logarithmic axis",
                where=group.first.path,
                remedy="leave it out",
            )
    _draw(file, curves(tested))


def _draw(file: Path, curves: Sequence[ComparisonCurve]) -> None:
    from matplotlib.figure import Figure

    with styled():
        names = [textwrap.fill(label, _LABEL) for label in labels(curves)]
        lines = sum(name.count("\n") + 1 for name in names)
        figure = Figure(figsize=(7.2, max(4.0, 0.7 + 0.21 * lines)), layout="constrained")
        axes = figure.add_subplot()
        shifts = _shifts(curves)
        for number, (curve, label, shift) in enumerate(zip(curves, names, shifts, strict=True)):
            _draw_curve(axes, curve, label, number, shift)
        _scale_density(axes, curves, room=max(map(abs, shifts)) + _MARGIN)
        _scale_accuracy(axes, curves)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(_subject(curves), loc="left", fontsize=9)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        remarks = ["error bars: sample standard deviation over seeds"] if _has_deviation(curves) else []
        remarks += ["points of one density stand side by side"] if any(shifts) else []
        if remarks:
            figure.supxlabel("; ".join(remarks), fontsize=7, color=REMARK)
        save(figure, file)


def _draw_curve(axes: Axes, curve: ComparisonCurve, label: str, number: int, shift: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.figure
    means, deviations = _accuracies(curve)
    colour = COLOURS[number % len(COLOURS)]
    drawn = axes.errorbar(
        [100 * group.density for group in curve.groups],
        means,
        yerr=deviations if any(map(math.isfinite, deviations)) else None,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linestyle="-" if number < len(COLOURS) else "--",
        linewidth=1.2,
        elinewidth=1.0,
        capsize=2.5,
        label=label,
        transform=axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
    )
    drawn.lines[0].set_gid(f"curve-{number + 1}")  # for whoever edits the SVG


def _accuracies(curve: ComparisonCurve) -> tuple[list[float], list[float]]:
    """Means and deviations in per cent; a deviation that is not known is NaN, which has no error bar."""
    measured = [statistic for group in curve.groups if (statistic := group.test_accuracy) is not None]
    deviations = [math.nan if one.deviation is None else 100 * one.deviation for one in measured]
    return [100 * one.mean for one in measured], deviations


def _scale_accuracy(axes: Axes, curves: Sequence[ComparisonCurve]) -> None:
    """From the lowest end of an error bar to the highest, and a little more."""
    ends: list[float] = []
    for curve in curves:
        for mean, deviation in zip(*_accuracies(curve), strict=True):
            reach = deviation if math.isfinite(deviation) else 0.0
            ends += [mean - reach, mean + reach]
    margin = max(0.06 * (max(ends) - min(ends)), 0.1)
    axes.set_ylim(min(ends) - margin, max(ends) + margin)
    axes.set_ylabel("test accuracy, %")


def _scale_density(axes: Axes, curves: Sequence[ComparisonCurve], *, room: float) -> None:
    """A logarithmic axis with plain round numbers, from one below the lowest density to one above the highest.

    ``room`` is what is free beyond these, in points.
    """
    from matplotlib.ticker import NullLocator

    densities = [100 * group.density for curve in curves for group in curve.groups]
    decades = range(math.floor(math.log10(min(densities))) - 1, math.ceil(math.log10(max(densities))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    first = max(index for index, tick in enumerate(ticks) if tick <= 1.001 * min(densities))
    last = min(index for index, tick in enumerate(ticks) if 1.001 * tick >= max(densities))
    if first == last:
        first, last = first - 1, last + 1
    shown = [tick for tick in ticks[first : last + 1] if tick <= 100]
    factor = (shown[-1] / shown[0]) ** (room / _NARROWEST)
    axes.set_xscale("log")
    axes.set_xlim(shown[0] / factor, shown[-1] * factor)
    axes.set_xticks(shown, [f"{tick:.10g}" for tick in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("density: active weights, % of the maskable ones")


def _shifts(curves: Sequence[ComparisonCurve]) -> list[float]:
    """How far to the right each curve is drawn, in points, so that single points of one density can be told apart.

    Lines stay where they are: of two that slope, one that is moved aside looks higher or lower than it is.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for number, curve in enumerate(curves):
        if len(curve.groups) == 1:
            alike[f"{curve.groups[0].density:.3g}"].append(number)
    shifts = [0.0] * len(curves)
    for numbers in alike.values():
        for place, number in enumerate(numbers):
            shifts[number] = _APART * (place - (len(numbers) - 1) / 2)
    return shifts


def labels(curves: Sequence[ComparisonCurve]) -> list[str]:
    """A name for each curve: its method or the way it was rewound, and whatever else tells it from the others."""
    names = [_base(curve.groups[0]) for curve in curves]
    for part in _PARTS:
        _tell_apart(names, [part(curve.groups[0]) for curve in curves])
    for key in curves[0].settings:
        _tell_apart(names, [f"{key.rpartition('.')[2]} {setting(curve.settings[key])}" for curve in curves])
    _tell_apart(names, [str(curve.groups[0].first.path) for curve in curves])  # where seeds are repeated
    return [f"{name}{_seeds(curve)}" for name, curve in zip(names, curves, strict=True)]


def _tell_apart(names: list[str], parts: Sequence[str]) -> None:
    """Adds to names that several have the parts in which these differ."""
    alike: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        alike[name].append(index)
    for indices in alike.values():
        if len({parts[index] for index in indices}) > 1:
            for index in indices:
                names[index] += f", {parts[index]}" if parts[index] else ""


def _base(group: RunGroup) -> str:
    mode, rounds = group.first.mode, group.first.rounds or 1
    name = group.first.recipe.method.name if mode is None else _MODES[mode]
    return name if rounds == 1 else f"{name}, {rounds} rounds"


def _method(group: RunGroup) -> str:
    return group.first.recipe.method.name


def _origin(group: RunGroup) -> str:
    return f"after {group.first.ancestors[0]}" if group.first.ancestors else ""


def _recipe(group: RunGroup) -> str:
    return group.first.recipe.name


def _model(group: RunGroup) -> str:
    return group.first.model


def _data(group: RunGroup) -> str:
    return group.first.recipe.data.name


_PARTS: tuple[Callable[[RunGroup], str], ...] = (_model, _data, _method, _origin, _recipe)


def _seeds(curve: ComparisonCurve) -> str:
    counts = sorted({len(group.runs) for group in curve.groups})
    if counts == [1]:
        return ""
    return f" ({counts[0]} seeds)" if len(counts) == 1 else f" ({counts[0]} to {counts[-1]} seeds)"


def _subject(curves: Sequence[ComparisonCurve]) -> str:
    """What all curves are of, as far as that is the same."""
    models, data = ({part(curve.groups[0]) for curve in curves} for part in (_model, _data))
    words = [models.pop()] if len(models) == 1 else []
    return " on ".join([*words, *([data.pop()] if len(data) == 1 else [])])


def _has_deviation(curves: Sequence[ComparisonCurve]) -> bool:
    return any(math.isfinite(deviation) for curve in curves for deviation in _accuracies(curve)[1])
