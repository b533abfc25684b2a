"""A picture with two axes, as SVG: grid, ticks with units, curves, points and their labels.

Pictures are about as wide as a phone, so that their text is as large there as it was meant to be; a wide page has
several beside each other. Colours and widths are classes, which ``style`` fills in for light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from granet_cli.report.markup import Child, Markup, element, joined, number
from granet_cli.report.scales import Point, Scale, plain

WIDTH, HEIGHT = 360, 236
_LEFT, _TOP, _BOTTOM = 42, 26, 36
_CHARACTER, _LINE = 7.0, 12.0
"""About the width of a character of a label, and the distance of two labels from line to line."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line, or points, in a picture."""

    points: Sequence[Point]
    slot: int
    """Which of the styles it has."""
    label: str = ""
    """Written at its end."""
    stepped: bool = False
    """Whether a value holds until the next point."""
    dotted: bool = False
    """Whether there are points alone, without a line."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What is drawn, and in what."""

    name: str
    """Unique on the page."""
    title: str
    description: str
    x: Scale
    y: Scale
    x_label: str
    y_label: str
    """With the unit."""
    curves: Sequence[Curve] = field(default=())

    @property
    def _right(self) -> float:
        """Where the plot ends, and labels begin."""
        longest = max((len(curve.label) for curve in self.curves), default=0)
        return WIDTH - max(16.0, 9 + _CHARACTER * longest)

    def _place(self, point: Point) -> Point:
        across, up = self.x.share(point[0]), self.y.share(point[1])
        bottom = HEIGHT - _BOTTOM
        return _LEFT + across * (self._right - _LEFT), bottom - min(max(up, 0.0), 1.0) * (bottom - _TOP)

    def draw(self) -> Markup:
        """The picture with its title above it."""
        drawn = picture(
            self.name,
            self.title,
            self.description,
            HEIGHT,
            self._grid(),
            (self._curve(curve) for curve in self.curves),
            self._labels(),
        )
        return figure(self.title, drawn)

    def _grid(self) -> Markup:
        bottom = HEIGHT - _BOTTOM
        parts: list[Markup] = []
        for tick in self.y.ticks:
            _, y = self._place((self.x.low, tick))
            parts.append(line(_LEFT, y, self._right, y, "grid"))
            parts.append(text(_LEFT - 5, y + 4, plain(tick), anchor="end"))
        for tick in self.x.ticks:
            x, _ = self._place((tick, self.y.low))
            parts.append(line(x, bottom, x, bottom + 4, "axis"))
            parts.append(text(x, bottom + 16, plain(tick), anchor="middle"))
        parts.append(line(_LEFT, bottom, self._right, bottom, "axis"))
        parts.append(text(2, 12, self.y_label))
        parts.append(text((_LEFT + self._right) / 2, HEIGHT - 4, self.x_label, anchor="middle"))
        return joined(*parts)

    def _curve(self, curve: Curve) -> Markup:
        if not curve.points:
            return Markup("")
        style = f"s{curve.slot}"
        places = [self._place(point) for point in curve.points]
        if curve.dotted or len(places) == 1:
            return joined(
                *(element("circle", cx=number(x), cy=number(y), r="3.5", class_=f"dot {style}") for x, y in places)
            )
        path = f"M{number(places[0][0])} {number(places[0][1])}"
        for (_, before), (x, y) in pairwise(places):
            if curve.stepped:
                path += f"H{number(x)}" + (f"V{number(y)}" if y != before else "")
            else:
                path += f"L{number(x)} {number(y)}"
        return element("path", d=path, class_=f"curve {style}")

    def _labels(self) -> Markup:
        """A label at the end of every curve; those that would lie on each other move apart, and a line leads there."""
        ends = sorted(
            ((*self._place(curve.points[-1]), curve) for curve in self.curves if curve.label and curve.points),
            key=lambda end: end[:2],
        )
        columns: list[list[tuple[float, float, Curve]]] = []
        for end in ends:
            if columns and end[0] - columns[-1][0][0] < 2 * _LINE:
                columns[-1].append(end)
            else:
                columns.append([end])
        parts: list[Markup] = []
        for column in columns:
            column.sort(key=lambda end: end[1])
            at = max(x for x, _, _ in column) + 7
            heights = apart([y for _, y, _ in column], _LINE, _TOP, HEIGHT - _BOTTOM)
            for (x, y, curve), height in zip(column, heights, strict=True):
                if abs(height - y) > 2 or at - x > 9:
                    parts.append(line(x, y, at - 1, height, "leader"))
                parts.append(text(at, height + 4, curve.label, kind="label"))
        return joined(*parts)


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Ascending places moved as little as need be until neighbours are ``distance`` apart, within low and high."""
    moved: list[list[float]] = []  # groups that touch: their sum of wishes and their number
    for index, place in enumerate(places):
        moved.append([place - index * distance, 1])
        while len(moved) > 1 and moved[-2][0] / moved[-2][1] > moved[-1][0] / moved[-1][1]:
            total, count = moved.pop()
            moved[-1] = [moved[-1][0] + total, moved[-1][1] + count]
    found = [total / count for total, count in moved for _ in range(int(count))]
    room = max(high - (len(places) - 1) * distance, low)
    return [min(max(place, low), room) + index * distance for index, place in enumerate(found)]


def figure(caption: str, drawn: Markup) -> Markup:
    """A picture with its caption."""
    return element("figure", element("figcaption", caption), drawn)


def picture(name: str, title: str, description: str, height: float, *children: Child) -> Markup:
    """An SVG of the common width with words for those who do not see it."""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *children,
        viewbox=f"0 0 {WIDTH} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        id=name,
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a class."""
    return element("line", x1=number(x1), y1=number(y1), x2=number(x2), y2=number(y2), class_=kind)


def text(x: float, y: float, words: str, *, anchor: str | None = None, kind: str | None = None) -> Markup:
    """Text that begins, has its middle or ends at a place."""
    return element("text", words, x=number(x), y=number(y), text_anchor=anchor, class_=kind)
