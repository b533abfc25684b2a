"""The chart of ``granet history``: densities of layers, exploration, churn, and survival of the weights gained."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from granet_cli.charts import parts, render
from granet_cli.charts.palette import INK
from granet_cli.charts.parts import Curve, Spec

if TYPE_CHECKING:
    from granet.analysis.history import HistoryReport, UpdateReport

_WIDTH, _HEIGHT = 320, 200
_LEGEND = {"orient": "bottom", "direction": "vertical"}


def draw(file: Path, report: HistoryReport) -> None:
    """Write the chart of a history.

    Raises:
        UsageError: the masks never changed.
        FileError: the file cannot be written.
    """
    from granet.errors import UsageError

    if not report.updates:
        raise UsageError("the masks of this run never changed, so there is nothing to draw", where="--plot")
    render.write(file, chart(report))


def chart(report: HistoryReport) -> Spec:
    """Return four panels: densities, exploration, churn and survival."""
    title = f"{report.method}, {report.model} on {report.data}, seed {report.seed}"
    return {
        "title": {"text": title, "subtitle": textwrap.wrap("; ".join(report.notes), 120)},
        "concat": [_densities(report), _exploration(report), _churn(report), _survival(report)],
        "columns": 2,
        "spacing": 30,
        "resolve": {"scale": {"color": "independent", "strokeDash": "independent", "shape": "independent"}},
    }


def _over_epochs(report: HistoryReport, pick: Callable[[UpdateReport], float]) -> list[parts.Point]:
    """Return a share in per cent at the beginning, after every update and at the newest checkpoint."""
    states = [report.before, *report.updates]
    return [
        *((state.epoch, 100 * pick(state)) for state in states),
        (report.step / report.steps_per_epoch, 100 * pick(report.end)),
    ]


def _panel(title: str, x: Spec, y: Spec, layers: list[Spec]) -> Spec:
    return parts.panel(title, x, y, layers, width=_WIDTH, height=_HEIGHT)


def _epochs(report: HistoryReport) -> Spec:
    return parts.linear_axis("epoch", [report.before.epoch, report.step / report.steps_per_epoch], margin=0.02)


def _densities(report: HistoryReport) -> Spec:
    """Return every layer in a colour by its place in the network, and all layers together, dashed."""
    rows = [
        {"x": x, "y": y, "layer": number}
        for number, layer in enumerate(report.layers, 1)
        for x, y in _over_epochs(report, lambda state, one=layer: state.layers[one.name] / one.parameters)  # type: ignore[misc]
    ]
    last = max(len(report.layers), 2)
    colours = {
        "scheme": {"name": "cividis", "extent": [0, 0.88]},
        "domain": [1, last],
    }  # the rest is too pale for lines
    shade = {"field": "layer", "type": "quantitative", "scale": colours}
    key = {"title": "layer, from input (1) to output", "values": [1, last], **_LEGEND}
    line = {"type": "line", "interpolate": "step-after"}
    layers = [
        {
            "data": {"values": rows},
            "mark": {**line, "strokeWidth": 1.2},
            "encoding": {
                "detail": {"field": "layer"},
                "color": {**shade, "legend": {**key, "direction": "horizontal", "gradientThickness": 8}},
            },
        },
        {
            "data": {"values": [{"x": x, "y": y} for x, y in _over_epochs(report, lambda state: state.density)]},
            "mark": {**line, "strokeWidth": 2.2, "color": INK, "strokeDash": [6, 3]},
        },
    ]
    y = parts.percent_axis("active weights, %", [row["y"] for row in rows])
    return _panel("density of each layer; dashed: all layers", _epochs(report), y, layers)


def _exploration(report: HistoryReport) -> Spec:
    explored = _over_epochs(report, lambda state: state.explored)
    initial = _over_epochs(report, lambda state: state.initial)
    curves = [
        Curve(points=explored, number=0, label="active at some time", stepped=True),
        Curve(points=initial, number=1, label="of the first active ones: active ever since", stepped=True),
    ]
    y = parts.axis("weights, %", 0, 103, ticks=range(0, 101, 20))
    layers = parts.curve_layers(curves, legend=_LEGEND)
    return _panel("exploration, and survival of the first weights", _epochs(report), y, layers)


def _churn(report: HistoryReport) -> Spec:
    lost = [(update.epoch, 100 * update.lost / max(update.active, 1)) for update in report.updates]
    gained = [(update.epoch, 100 * update.churn) for update in report.updates]
    curves = [
        Curve(points=lost, number=1, label="lost", markers=True),
        Curve(points=gained, number=0, label="gained (churn)", markers=True),
    ]
    y = parts.axis("per active weight, %", 0, 1.05 * max(1.0, *(value for _, value in (*lost, *gained))))
    layers = parts.curve_layers(curves, legend=_LEGEND)
    return _panel("what each update moved", _epochs(report), y, layers)


def _survival(report: HistoryReport) -> Spec:
    points = [(float(point.updates), 100 * point.share) for point in report.survival]
    oldest = points[-1][0] if points else 1.0
    ticks = [digit * 10**power for power in range(9) for digit in (1, 2, 5) if digit * 10**power <= oldest]
    x = parts.axis("updates since they were gained", 0.9, max(1.1 * oldest, 2), ticks=ticks or [1], logarithmic=True)
    y = parts.axis("still active, %", 0, 103, ticks=range(0, 101, 20))
    none = [{"px": _WIDTH / 2, "py": _HEIGHT / 2, "text": "no gained weight was there at a later update"}]
    layers = parts.curve_layers([Curve(points=points, number=0, markers=True)]) if points else [parts.text_layer(none)]
    return _panel("survival of the weights gained", x, y, layers)
