"""Charts of the page: curves of what runs measured, and the density of every layer over time."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from granet_cli.charts import parts, render
from granet_cli.charts.palette import DISTINCT_LINES
from granet_cli.charts.parts import Curve, Point, Spec

if TYPE_CHECKING:
    from granet.analysis.history import UpdateReport
    from granet.analysis.run_report import Epoch, RunReport

MOST_LAYERS = 400
_MOST_LABELS = 12
_POINTS, _FEWEST_POINTS = 3000, 60
"""Points in a chart, shared among its curves, and the fewest that a curve has."""
_MOST_COLUMNS, _FEWEST_COLUMNS = 72, 8
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 360, 236, 42, 26, 36
"""Of a chart and around its plot, in pixels: about as wide as a phone, so that text is as large there as meant."""

_Measure = Callable[["Epoch"], float | None]
_Share = Callable[["UpdateReport"], float]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart drawn as SVG."""

    name: str
    """Unique on the page."""
    title: str
    description: str
    """For readers who do not see it."""
    view: str
    """The viewBox."""
    drawn: Markup
    """What is inside the svg element."""


def _picture(name: str, title: str, description: str, chart: Spec) -> Picture:
    root, _, inside = render.svg(chart).partition(">")
    found = re.search('viewBox="([^"]*)"', root)
    assert found is not None  # noqa: S101  Vega always writes one
    drawn = Markup(inside.removesuffix("</svg>"))  # noqa: S704  Vega escapes text
    return Picture(name=name, title=title, description=description, view=found[1], drawn=drawn)


def points_per_curve(runs: int) -> int:
    """Return how many points a curve may have when so many runs share a chart."""
    return max(_POINTS // max(runs, 1), _FEWEST_POINTS)


def is_thinned(runs: Sequence[RunReport]) -> bool:
    """Return whether some curve has more points than are drawn."""
    longest = max((max(len(run.epochs), len(_states(run))) for run in runs), default=0)
    return longest > points_per_curve(len(runs))


def of_one(run: RunReport) -> list[Picture]:
    """Return the charts of a single run, with training and validation in one."""
    epochs = _epoch_axis([run])

    def pair(training: _Measure, validation: _Measure, factor: float = 1.0) -> dict[str, list[Point]]:
        return {"training": _measured(run, training, factor), "validation": _measured(run, validation, factor)}

    remains = {
        "ever": _replayed(run, lambda state: state.explored),
        "always": _replayed(run, lambda state: state.initial),
    }
    accuracies = pair(lambda e: e.accuracy, lambda e: e.validation_accuracy, 100)
    found = [
        _chart("loss", "Loss", "cross-entropy", epochs, pair(lambda e: e.loss, lambda e: e.validation_loss)),
        _chart("accuracy", "Accuracy", "accuracy, %", epochs, accuracies),
        _densities([run], epochs, labelled=False),
        _chart(
            "explored",
            "Exploration rate, and what stayed of the first masks",
            "ever: of all weights; always: of the first, %",
            epochs,
            remains,
            y=_whole_percents,
            stepped=True,
        ),
    ]
    return [picture for picture in found if picture is not None]


def of_several(runs: Sequence[RunReport]) -> list[Picture]:
    """Return the charts of several runs, a curve for each of the first ``DISTINCT_LINES``."""
    shown = runs[:DISTINCT_LINES]
    epochs = _epoch_axis(shown)

    def measured(name: str, title: str, unit: str, measure: _Measure, factor: float = 1.0) -> Picture | None:
        curves = {f"run {n}": _measured(run, measure, factor, len(shown)) for n, run in enumerate(shown, 1)}
        return _chart(name, title, unit, epochs, curves)

    explored = {f"run {n}": _replayed(run, lambda s: s.explored, len(shown)) for n, run in enumerate(shown, 1)}
    title, unit = "Exploration rate", "active at some time, %"
    found = [
        measured("validation-loss", "Validation loss", "cross-entropy", lambda e: e.validation_loss),
        measured("validation-accuracy", "Validation accuracy", "accuracy, %", lambda e: e.validation_accuracy, 100),
        measured("training-loss", "Training loss", "cross-entropy", lambda e: e.loss),
        measured("training-accuracy", "Training accuracy", "accuracy, %", lambda e: e.accuracy, 100),
        _densities(shown, epochs),
        _chart("explored", title, unit, epochs, explored, y=_whole_percents, stepped=True),
        _against_density(shown),
    ]
    return [picture for picture in found if picture is not None]


def _chart(
    name: str,
    title: str,
    unit: str,
    x: Spec,
    points: Mapping[str, Sequence[Point]],
    *,
    y: Callable[[str, list[float]], Spec] = parts.linear_axis,
    stepped: bool = False,
    labelled: bool = True,
    description: str | None = None,
) -> Picture | None:
    """Return a chart with a curve for each name that has points, in the look of its number; None when none has."""
    labelled = labelled and sum(map(bool, points.values())) <= _MOST_LABELS
    curves = [
        Curve(points=found, number=number, label=name.removeprefix("run ") if labelled else "", stepped=stepped)
        for number, (name, found) in enumerate(points.items())
        if found
    ]
    if not curves:
        return None
    ends = "; ".join(
        f"{name}: from {found[0][1]:.4g} at epoch {found[0][0]:.4g} to {found[-1][1]:.4g} at epoch {found[-1][0]:.4g}"
        for name, found in points.items()
        if found
    )
    right = parts.label_room(curves)
    size = {"width": _WIDTH - _LEFT - right, "height": _HEIGHT - _TOP - _BOTTOM}
    vertical = y(unit, [value for curve in curves for _, value in curve.points])
    layers = [*parts.curve_layers(curves), *parts.end_labels(curves, x, vertical, **size)]
    chart = parts.panel(None, x, vertical, layers, **size) | {
        "autosize": "none",
        "padding": {"left": _LEFT, "top": _TOP, "right": right, "bottom": _BOTTOM},
    }
    return _picture(name, title, description or f"In {unit}. {ends}.", chart)


def _whole_percents(title: str, _values: list[float]) -> Spec:
    return parts.axis(title, 0, 100)


def _measured(run: RunReport, measure: _Measure, factor: float = 1.0, runs: int = 1) -> list[Point]:
    known = [(epoch.step / run.steps_per_epoch, measure(epoch)) for epoch in run.epochs]
    points = [(epoch, factor * value) for epoch, value in known if value is not None]
    return parts.thinned(points, points_per_curve(runs))


def _epoch_axis(runs: Sequence[RunReport]) -> Spec:
    """Return an axis from where the first of the runs begins to where the last has come."""
    ends = [
        step / run.steps_per_epoch
        for run in runs
        for step in (run.begins_at, run.summary.step, *(epoch.step for epoch in run.epochs))
    ]
    return parts.axis("epoch", min(ends), max(*ends, min(ends) + 1e-3))


def _states(run: RunReport) -> list[UpdateReport]:
    return [] if run.history is None else [run.history.before, *run.history.updates]


def _replayed(run: RunReport, share: _Share, runs: int = 1) -> list[Point]:
    """Return a share in per cent from the history of the masks, on to the newest checkpoint."""
    points = [(state.epoch, 100 * share(state)) for state in _states(run)]
    if points:
        points.append((run.summary.step / run.steps_per_epoch, points[-1][1]))
    return parts.thinned(points, points_per_curve(runs))


def _densities(runs: Sequence[RunReport], epochs: Spec, *, labelled: bool = True) -> Picture | None:
    count = len(runs)
    curves = {
        f"run {n}": _replayed(run, lambda state: state.density, count)
        or _measured(run, lambda epoch: epoch.density, 100, count)
        for n, run in enumerate(runs, 1)
    }
    unit = "active weights, % (logarithmic)"
    return _chart("density", "Density", unit, epochs, curves, y=parts.percent_axis, stepped=True, labelled=labelled)


def _against_density(runs: Sequence[RunReport]) -> Picture | None:
    """Return test accuracy against density, where there is something to compare."""
    points: dict[str, list[Point]] = {}
    for n, run in enumerate(runs, 1):
        density, accuracy = 100 * run.inspection.density, run.summary.test_accuracy
        points[f"run {n}"] = [(density, 100 * accuracy)] if accuracy is not None and density > 0 else []
    known = {name: found[0] for name, found in points.items() if found}
    if len(known) < 2:
        return None
    described = "; ".join(f"{name}: {y:.2f} % at a density of {x:.4g} %" for name, (x, y) in known.items())
    title, unit = "Test accuracy against density", "test accuracy, %"
    x = parts.percent_axis("active weights, % (logarithmic)", [x for x, _ in known.values()])
    return _chart("density-accuracy", title, unit, x, points, description=f"{described}.")


def has_layers_over_time(run: RunReport) -> bool:
    """Return whether there are masks that changed, of not too many layers."""
    return run.history is not None and bool(run.history.updates) and len(run.history.layers) <= MOST_LAYERS


def columns(layers: int, cells: int) -> int:
    """Return the number of columns (times) of the heat map, for ``layers`` rows and about ``cells`` cells."""
    return max(min(_MOST_COLUMNS, cells // max(layers, 1)), _FEWEST_COLUMNS)


def layers_over_time(run: RunReport, name: str, *, cells: int) -> Picture:
    """Return the density of every layer over time as colours; see ``has_layers_over_time``.

    Args:
        run: whose history it is.
        name: unique on the page.
        cells: about how many there may be: a row for each layer, a column for each time.
    """
    history = run.history
    assert history is not None  # noqa: S101  has_layers_over_time says so
    states = _states(run)
    begin, end = history.begins_at, max(history.step, history.begins_at + 1)
    count = columns(len(history.layers), cells)
    steps = [state.step for state in states]
    times = [begin + (end - begin) * (index + 0.5) / count for index in range(count)]
    shown = [states[max(bisect_right(steps, time) - 1, 0)] for time in times]
    rows = [[state.layers[layer.name] / layer.parameters for state in shown] for layer in history.layers]
    chart = parts.heat_map(
        rows,
        parts.axis("epoch", begin / history.steps_per_epoch, end / history.steps_per_epoch),
        titles=("layer, from the input down to the output", "active weights of the layer, % (logarithmic)"),
        width=_WIDTH - 56,
        height=len(rows) * min(max(240 / len(rows), 2.0), 16.0),
    )
    first, last = (pick(history.layers, key=lambda layer: layer.density) for pick in (min, max))
    description = (
        f"Run {run.summary.path.name}: {len(rows)} layers, from the input at the top to the output at the bottom. At "
        f"the end {first.name} has the lowest density, {100 * first.density:.3g} %, and {last.name} the highest, "
        f"{100 * last.density:.3g} %. The table below has all."
    )
    return _picture(name, "Density of each layer over epochs", description, chart)
