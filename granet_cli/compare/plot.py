"""The chart of ``granet compare``: density against test accuracy, a curve for runs that differ in density alone."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from granet_cli.charts import parts, render
from granet_cli.render import setting

if TYPE_CHECKING:
    from granet.analysis.comparison import ComparisonCurve, RunGroup
    from granet.analysis.run_summary import RunSummary

_MODES = {"lr": "LR rewinding", "weights": "weight rewinding", "finetune": "fine-tuning"}
_WIDTH = 400
_APART = 5.0
"""Pixels between single points of one density."""
_LABEL = 40
"""Characters in a line of the legend."""


def draw(file: Path, groups: Iterable[RunGroup]) -> None:
    """Write the chart of all ``groups`` that were tested.

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
    render.write(file, chart(curves(tested)))


def chart(curves: Sequence[ComparisonCurve]) -> parts.Spec:
    """Return the chart of tested runs."""
    x = parts.percent_axis(
        "density: active weights, % of the maskable ones",
        [100 * group.density for curve in curves for group in curve.groups],
    )
    low, high = x["scale"]["domain"]
    alike = Counter(_single_density(curve) for curve in curves)
    seen: Counter[str] = Counter()
    drawn, ends, moved = [], [], False
    for number, (curve, label) in enumerate(zip(curves, labels(curves), strict=True)):
        shift = 0.0
        if density := _single_density(curve):
            # Single points of one density stand side by side. Lines stay where they are: of two that slope, one that
            # is moved aside looks higher or lower than it is.
            shift = _APART * (seen[density] - (alike[density] - 1) / 2)
            seen[density] += 1
        moved = moved or shift != 0
        measured = [(group, statistic) for group in curve.groups if (statistic := group.test_accuracy) is not None]
        deviations = [None if one.deviation is None else 100 * one.deviation for _, one in measured]
        points = [(100 * group.density * (high / low) ** (shift / _WIDTH), 100 * one.mean) for group, one in measured]
        ends += [y + sign * (d or 0.0) for (_, y), d in zip(points, deviations, strict=True) for sign in (-1, 1)]
        name = textwrap.fill(label, _LABEL)
        drawn.append(parts.Curve(points=points, number=number, label=name, markers=True, deviations=deviations))
    remarks = []
    if any(any(curve.deviations) for curve in drawn):
        remarks.append("error bars: sample standard deviation over seeds")
    if moved:
        remarks.append("points of one density stand side by side")
    height = max(260, 15 * sum(curve.label.count("\n") + 1 for curve in drawn))
    title = {"text": _subject(curves), "subtitle": "; ".join(remarks)}
    y = parts.linear_axis("test accuracy, %", ends)
    layers = parts.curve_layers(drawn, legend={"orient": "right"})
    return parts.panel(title, x, y, layers, width=_WIDTH, height=height)


def _single_density(curve: ComparisonCurve) -> str:
    """Return the density of a curve of one point; "" for others."""
    return f"{curve.groups[0].density:.3g}" if len(curve.groups) == 1 else ""


def labels(curves: Sequence[ComparisonCurve]) -> list[str]:
    """Return a name for each curve: its method or mode of rewinding, and whatever tells it from the others."""
    names = [_base(curve.groups[0]) for curve in curves]
    for part in _PARTS:
        _add_differences(names, [part(curve.groups[0].first) for curve in curves])
    for key in curves[0].settings:
        _add_differences(names, [f"{key.rpartition('.')[2]} {setting(curve.settings[key])}" for curve in curves])
    _add_differences(names, [str(curve.groups[0].first.path) for curve in curves])  # where seeds are repeated
    return [f"{name}{_seeds(curve)}" for name, curve in zip(names, curves, strict=True)]


def _add_differences(names: list[str], parts: Sequence[str]) -> None:
    """Append parts to names that several curves have, where the parts differ."""
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


_PARTS: tuple[Callable[[RunSummary], str], ...] = (
    lambda run: run.model,
    lambda run: run.recipe.data.name,
    lambda run: run.recipe.method.name,
    lambda run: f"after {run.ancestors[0]}" if run.ancestors else "",
    lambda run: run.recipe.name,
)


def _seeds(curve: ComparisonCurve) -> str:
    counts = sorted({len(group.runs) for group in curve.groups})
    if counts == [1]:
        return ""
    return f" ({counts[0]} seeds)" if len(counts) == 1 else f" ({counts[0]} to {counts[-1]} seeds)"


def _subject(curves: Sequence[ComparisonCurve]) -> str:
    """Return the network and the data, as far as all curves share them."""
    runs = [curve.groups[0].first for curve in curves]
    names = ({run.model for run in runs}, {run.recipe.data.name for run in runs})
    return " on ".join(name for found in names if len(found) == 1 for name in found)
