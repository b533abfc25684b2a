"""Parts of charts: axes, curves with markers and error bars, labels at the ends of curves, panels and heat maps.

Every function returns (a part of) a Vega-Lite specification, https://vega.github.io/vega-lite/docs/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from granet_cli.charts.palette import FAINT, INK, colour, dash, marker

Spec = dict[str, Any]
Point = tuple[float, float]

HEAT_LEVELS = 16
_LINE, _CHARACTER = 12.0, 7.0
"""Height of a label and about the width of its characters, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line, or points, of one look."""

    points: Sequence[Point]
    number: int
    """From 0: picks colour, dash and marker."""
    label: str = ""
    """For the legend, or for the end of the curve."""
    stepped: bool = False
    """Whether a value holds until the next point."""
    line: bool = True
    markers: bool = False
    deviations: Sequence[float | None] = ()
    """Half the length of each error bar; None for a point without one."""
    dash: Sequence[int] | None = None
    """Lengths of strokes and gaps, in place of those of ``number``."""


def axis(
    title: str, low: float, high: float, *, ticks: Sequence[float] | None = None, logarithmic: bool = False
) -> Spec:
    """Return an axis from ``low`` to ``high``; values beyond are drawn at its ends. Vega picks missing ``ticks``."""
    scale = {"type": "log" if logarithmic else "linear", "domain": [low, high], "nice": False, "zero": False}
    shown: Spec = {"title": title, **({"format": "~g"} if logarithmic else {})}
    if ticks is not None:
        shown["values"] = list(ticks)
    return {"type": "quantitative", "scale": {**scale, "clamp": True}, "axis": shown}


def linear_axis(title: str, values: Iterable[float], *, margin: float = 0.05) -> Spec:
    """Return a linear axis that holds all finite ``values`` and a share ``margin`` of their range at both ends."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    room = margin * (high - low) if high - low > 1e-9 * abs(high) else abs(high) * 0.05 or 1.0
    return axis(title, low - room, high + room)


def percent_axis(title: str, values: Iterable[float]) -> Spec:
    """Return a logarithmic axis for shares in per cent, with ticks at 1, 2 and 5 times powers of ten, up to 100."""
    known = [value for value in values if value > 0] or [100.0]
    ticks = [tick for power in range(-8, 3) for digit in (1, 2, 5) if (tick := digit * 10.0**power) <= 100]
    first = max((index for index, tick in enumerate(ticks) if tick <= 1.001 * min(known)), default=0)
    last = min((index for index, tick in enumerate(ticks) if 1.001 * tick >= max(known)), default=len(ticks) - 1)
    shown = ticks[max(first - (first == last), 0) : last + 1 + (first == last)]
    margin = (shown[-1] / shown[0]) ** 0.04
    step = math.ceil(len(shown) / 8)
    return axis(title, shown[0] / margin, shown[-1] * margin, ticks=shown[::-1][::step][::-1], logarithmic=True)


def share(axis: Spec, value: float) -> float:
    """Return how far along an axis ``value`` is, 0 to 1."""
    low, high = axis["scale"]["domain"]
    value = min(max(value, low), high)
    if axis["scale"]["type"] == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def panel(title: str | Spec | None, x: Spec, y: Spec, layers: Sequence[Spec], *, width: float, height: float) -> Spec:
    """Return a chart of ``layers`` whose data have fields ``x`` and ``y``; sizes are those of the plot, in pixels."""
    encoding = {"x": {"field": "x", **x}, "y": {"field": "y", **y}}
    return {"title": title, "width": width, "height": height, "encoding": encoding, "layer": list(layers)}


def curve_layers(curves: Sequence[Curve], *, legend: Spec | None = None) -> list[Spec]:
    """Return a layer for each curve; ``legend`` has options of the legend, and without it there is none."""
    labels = [curve.label for curve in curves]

    def channel(curve: Curve, looks: Sequence[object], look: object) -> Spec:
        if legend is None:
            return {"value": look}
        scale = {"domain": labels, "range": list(looks)}
        return {"datum": curve.label, "type": "nominal", "scale": scale, "legend": {"title": None, **legend}}

    colours = [colour(curve.number) for curve in curves]
    dashes = [dash(curve.number) for curve in curves]
    shapes = [marker(curve.number) for curve in curves]
    layers = []
    for index, curve in enumerate(curves):
        parts: list[Spec] = []
        if curve.line and len(curve.points) > 1:
            mark = {"type": "line", "strokeWidth": 1.7, "interpolate": "step-after" if curve.stepped else "linear"}
            fixed = None if curve.dash is None else {"value": list(curve.dash)}
            parts.append({"mark": mark, "encoding": {"strokeDash": fixed or channel(curve, dashes, dashes[index])}})
        if any(curve.deviations):
            parts.append(
                {"mark": {"type": "errorbar", "ticks": {"size": 5}}, "encoding": {"yError": {"field": "deviation"}}}
            )
        if curve.markers or len(curve.points) == 1:
            mark = {"type": "point", "filled": True, "opacity": 1, "size": 36}
            parts.append({"mark": mark, "encoding": {"shape": channel(curve, shapes, shapes[index])}})
        rows: list[Spec] = [{"x": x, "y": y} for x, y in curve.points]
        for row, deviation in zip(rows, curve.deviations, strict=False):
            row["deviation"] = deviation or 0.0
        layers.append(
            {
                "data": {"values": rows},
                "encoding": {"color": channel(curve, colours, colours[index])},
                "layer": parts,
            }
        )
    return layers


def rules(places: Sequence[float], *, channel: str, dotted: bool = False) -> Spec:
    """Return a layer of straight lines across the plot at values of ``channel``, x or y."""
    mark = {"type": "rule", "color": FAINT, "strokeWidth": 0.8, **({"strokeDash": [1, 2]} if dotted else {})}
    other = "y" if channel == "x" else "x"
    return {"data": {"values": [{channel: place} for place in places]}, "mark": mark, "encoding": {other: None}}


def text_layer(rows: Sequence[Spec], **mark: object) -> Spec:
    """Return a layer that writes ``text`` at ``px`` and ``py`` of each row, in pixels from the top left of the plot."""
    place = {
        channel: {"field": f"p{channel}", "type": "quantitative", "scale": None, "axis": None} for channel in ("x", "y")
    }
    encoding = {**place, "text": {"field": "text", "type": "nominal"}}
    return {"data": {"values": list(rows)}, "mark": {"type": "text", "color": INK, **mark}, "encoding": encoding}


def end_labels(curves: Sequence[Curve], x: Spec, y: Spec, *, width: float, height: float) -> list[Spec]:
    """Return layers with the label of each curve next to its end; where labels would overlap, they move apart and lines
    lead to them."""
    ends = sorted(
        (share(x, curve.points[-1][0]) * width, (1 - share(y, curve.points[-1][1])) * height, curve.label)
        for curve in curves
        if curve.label and curve.points
    )
    columns: list[list[tuple[float, float, str]]] = []
    for end in ends:
        if columns and end[0] - columns[-1][0][0] < 2 * _LINE:
            columns[-1].append(end)
        else:
            columns.append([end])
    texts, leaders = [], []
    for column in columns:
        column.sort(key=lambda end: end[1])
        left = max(across for across, _, _ in column) + 7
        for (across, down, label), moved in zip(column, apart([end[1] for end in column], height), strict=True):
            texts.append({"px": left, "py": moved, "text": label})
            if abs(moved - down) > 2 or left - across > 9:
                leaders.append({"px": across, "py": down, "px2": left - 1, "py2": moved})
    labels = text_layer(texts, align="left", baseline="middle", fontWeight="bold")
    line = {
        "data": {"values": leaders},
        "mark": {"type": "rule", "color": FAINT, "strokeWidth": 0.75},
        "encoding": {
            **{channel: labels["encoding"][channel] for channel in ("x", "y")},
            **{channel: {"field": f"p{channel}"} for channel in ("x2", "y2")},
        },
    }
    return [*([line] if leaders else []), labels]


def label_room(curves: Sequence[Curve]) -> float:
    """Return the pixels that labels at the ends of curves need to the right of the plot."""
    return max(16.0, 9 + _CHARACTER * max((len(curve.label) for curve in curves), default=0))


def apart(places: Sequence[float], high: float, *, distance: float = _LINE) -> list[float]:
    """Return ascending places, moved as little as needed to be ``distance`` apart and within 0 and ``high``."""
    moved: list[list[float]] = []  # groups that touch: the sum of their wishes and their number
    for index, place in enumerate(places):
        moved.append([place - index * distance, 1])
        while len(moved) > 1 and moved[-2][0] / moved[-2][1] > moved[-1][0] / moved[-1][1]:
            total, count = moved.pop()
            moved[-1] = [moved[-1][0] + total, moved[-1][1] + count]
    found = [total / count for total, count in moved for _ in range(int(count))]
    room = max(high - (len(places) - 1) * distance, 0.0)
    return [min(max(place, 0.0), room) + index * distance for index, place in enumerate(found)]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most about ``most`` of the points of a curve: its ends, and of each stretch the lowest and highest."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    stretches = max(most // 2 - 1, 1)
    kept = [points[0]]
    for number in range(stretches):
        stretch = inner[len(inner) * number // stretches : len(inner) * (number + 1) // stretches]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return [*kept, points[-1]]


def heat_map(rows: Sequence[Sequence[float]], x: Spec, *, titles: tuple[str, str], width: float, height: float) -> Spec:
    """Return shares above 0 up to 1 as colours on a logarithmic scale, with a key below; a share of 0 has the lowest.

    Args:
        rows: from the top down; each spans ``x`` in columns of equal width.
        x: the axis below.
        titles: of the rows and of the key.
        width: of the field of colours, in pixels.
        height: likewise.
    """
    least = min((value for row in rows for value in row if value > 0), default=1.0)
    low, high = x["scale"]["domain"]
    cells = []
    for index, row in enumerate(rows):
        begin = 0
        for level, equal in groupby(row, key=lambda value: _level(value, least)):
            end = begin + len(list(equal))
            left, right = (low + (high - low) * edge / len(row) for edge in (begin, end))
            cells.append({"x": left, "x2": right, "y": index + 0.5, "y2": index + 1.5, "level": level})
            begin = end
    layer = {"domain": [0.5, len(rows) + 0.5], "reverse": True, "nice": False, "zero": False}
    field = _cells(cells, x, {"scale": layer, "axis": {"title": titles[0], "tickMinStep": 1, "grid": False}})
    edges = [100 * least ** (1 - edge / HEAT_LEVELS) for edge in range(HEAT_LEVELS + 1)]
    swatches = [
        {"x": edges[level], "x2": edges[level + 1], "y": 0, "y2": 1, "level": level} for level in range(HEAT_LEVELS)
    ]
    ticks = [edges[index] for index in range(0, HEAT_LEVELS + 1, 4)]
    shares = axis(titles[1], edges[0], 100, ticks=ticks, logarithmic=True)
    shares["axis"] |= {"format": ".3~g", "labelFlush": True, "orient": "bottom"}
    key = _cells(swatches, shares, {"axis": None})
    parts = [{**field, "width": width, "height": height}, {**key, "width": width, "height": 12}]
    return {"vconcat": parts if least < 1 else parts[:1], "spacing": 8}


def _level(value: float, least: float) -> int:
    """Return the level of a share: equal factors are equal numbers of levels."""
    if value <= 0 or least >= 1:
        return 0 if value <= 0 else HEAT_LEVELS - 1
    return min(int((1 - math.log(value) / math.log(least)) * HEAT_LEVELS), HEAT_LEVELS - 1)


def _cells(values: Sequence[Spec], x: Spec, y: Spec) -> Spec:
    # cividis: colour-blind people see its colours in their order (Nunez, Anderton and Renslow 2018).
    colours = {"scheme": "cividis", "domain": [0, HEAT_LEVELS - 1]}
    return {
        "data": {"values": list(values)},
        "mark": {"type": "rect", "strokeWidth": 0},
        "encoding": {
            "x": {"field": "x", **x},
            "x2": {"field": "x2"},
            "y": {"field": "y", "type": "quantitative", **y},
            "y2": {"field": "y2"},
            "color": {"field": "level", "type": "quantitative", "scale": colours, "legend": None},
        },
    }
