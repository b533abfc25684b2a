"""From values to places: axes, their ticks, and long curves with fewer points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """An axis: the range of its values, the ticks on it, and whether equal steps are equal factors."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value is, 0 to 1."""
        if self.logarithmic:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)


def linear(values: Iterable[float], *, most: int = 6, low: float | None = None, high: float | None = None) -> Scale:
    """A scale with round ticks that reaches from the lowest value to the highest, or to ``low`` and ``high``."""
    known = list(values) or [0.0, 1.0]
    bottom = min(known) if low is None else low
    top = max(known) if high is None else high
    if top - bottom < 1e-9 * max(abs(top), 1e-9):
        margin = abs(top) * 0.05 or 1.0
        bottom, top = (bottom - margin if low is None else bottom), top + margin
    step = _round_step((top - bottom) / most)
    first = math.floor(bottom / step + 1e-9) if low is None else math.ceil(bottom / step - 1e-9)
    last = math.ceil(top / step - 1e-9) if high is None else math.floor(top / step + 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Scale(ticks[0] if low is None else low, ticks[-1] if high is None else high, ticks)


def _round_step(least: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def percents(values: Iterable[float]) -> Scale:
    """A logarithmic scale for positive shares in per cent, up to a hundred."""
    least = min((value for value in values if value > 0), default=100.0)
    ticks = [digit * 10.0**decade for decade in range(-8, 3) for digit in (1, 2, 5)]
    first = max((index for index, tick in enumerate(ticks) if tick <= least), default=0)
    shown = [tick for tick in ticks[min(first, len(ticks) - 4) :] if tick <= 100]
    while len(shown) > 8:
        shown = [*shown[:-1:2], shown[-1]]
    # A little more on both sides, so that nothing lies on the edge.
    return Scale(shown[0] / 1.15, 115.0, tuple(shown), logarithmic=True)


def plain(value: float) -> str:
    """A tick: the number without what binary fractions add to it."""
    return f"{value:.10g}".replace("-0", "0") if value == 0 else f"{value:.6g}"


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Some of the ``points`` of a curve, at most about ``most``: the ends, and of each stretch the lowest and highest.

    So nothing sticks out of the whole curve that does not stick out of the thinned one.
    """
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    stretches = max(most // 2 - 1, 1)
    kept = [0]
    for number in range(stretches):
        begin, end = (len(inner) * edge // stretches + 1 for edge in (number, number + 1))
        height: Callable[[int], float] = lambda index: points[index][1]  # noqa: E731
        kept += sorted({min(range(begin, end), key=height), max(range(begin, end), key=height)})
    return [points[index] for index in (*kept, len(points) - 1)]


def spread(count: int, most: int) -> list[int]:
    """Numbers below ``count``: the first, the last, and others evenly between."""
    if count <= most:
        return list(range(count))
    if most <= 1:
        return [0]
    return sorted({round(number * (count - 1) / (most - 1)) for number in range(most)})
