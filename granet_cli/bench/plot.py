"""The chart of ``granet bench``: ratios to the control with their intervals, and images a second."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from granet_cli.charts import parts, render
from granet_cli.charts.palette import DASHES, colour, marker
from granet_cli.charts.parts import Curve, Spec

if TYPE_CHECKING:
    from exporters.bench.report import BenchReport, BenchResult

_LONGEST = 48


def draw(file: Path, report: BenchReport) -> None:
    """Write the chart of a report that has results.

    Raises:
        FileError: the file cannot be written.
    """
    render.write(file, chart(report))


def chart(report: BenchReport) -> Spec:
    """Return two panels: ratios and rates."""
    labels = list(dict.fromkeys(_label(result, report) for result in report.results))
    gpu = report.environment.get("gpu")
    device = gpu["name"] if isinstance(gpu, dict) else report.environment["cpu"]
    return {
        "title": f"{report.provider} on {device}",
        "hconcat": [_ratios(report, labels), _rates(report, labels)],
        "spacing": 30,
        "resolve": {"scale": {"color": "independent", "shape": "independent"}},
    }


def _ratios(report: BenchReport, labels: list[str]) -> Spec:
    """Return a row for each model and batch size, with its interval; the control is at 1."""
    rows, ends = [], [1.0]
    for result in report.results:
        if result.ratio is not None:
            ratio, label = result.ratio, _label(result, report)
            low = min(ratio.low, ratio.value)
            high = max(ratio.high, ratio.value) if math.isfinite(ratio.high) else ratio.value
            look = {"colour": colour(labels.index(label)), "marker": marker(labels.index(label))}
            rows.append({"row": f"{label}, batch {result.batch}", "x": ratio.value, "low": low, "high": high, **look})
            ends += [low, high]
    x = parts.linear_axis("time / time of the control", ends)
    looks = {
        "color": {"field": "colour", "scale": None, "legend": None},
        "shape": {"field": "marker", "scale": None, "legend": None},
    }
    shown = {"title": "model", "titleAlign": "right", "titleX": -5, "labelLimit": 0}
    names = {"field": "row", "type": "nominal", "sort": None, "axis": shown}
    return {
        "title": "Ratio, with its interval",
        "width": 260,
        "height": {"step": 22},
        "data": {"values": rows},
        "encoding": {"y": names},
        "layer": [
            parts.rules([1.0], channel="x") | {"encoding": {"y": None, "x": {"field": "x", **x}}},
            {
                "mark": {"type": "errorbar", "ticks": {"size": 6}},
                "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "color": looks["color"]},
            },
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 40},
                "encoding": {"x": {"field": "x", **x}, **looks},
            },
        ],
    }


def _rates(report: BenchReport, labels: list[str]) -> Spec:
    """Return images a second over the batch size, a line for each model; those of controls are dashed."""
    curves = []
    for number, label in enumerate(labels):
        results = [result for result in report.results if _label(result, report) == label]
        points = sorted((float(result.batch), result.images_per_s) for result in results)
        dash = DASHES[any(result.role == "control" for result in results)]
        curves.append(Curve(points=points, number=number, label=label, markers=True, dash=dash))
    batches = sorted({result.batch for result in report.results})
    x = parts.axis("batch size, images", batches[0] / 1.2, batches[-1] * 1.2, ticks=batches, logarithmic=True)
    y = parts.axis("images/s", 0, 1.1 * max(result.images_per_s for result in report.results))
    layers = parts.curve_layers(curves, legend={"orient": "bottom", "direction": "vertical"})
    return parts.panel("Rate (controls dashed)", x, y, layers, width=300, height=220)


def _label(result: BenchResult, report: BenchReport) -> str:
    several = len({each.precision for each in report.results}) > 1
    name = result.model if len(result.model) <= _LONGEST else f"...{result.model[3 - _LONGEST :]}"
    return f"{name}, {result.precision}" if several else name
