"""The density of every layer over time, as a field of colours: a row for each layer, a column for each time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from granet_cli.report.markup import Markup, element, joined, number
from granet_cli.report.plane import WIDTH, line, picture, text
from granet_cli.report.scales import linear, plain, spread

if TYPE_CHECKING:
    from granet.analysis.run_report import RunReport

LEVELS = 16
MOST_LAYERS = 400
_LEFT, _RIGHT, _TOP = 34, 16, 18
_MOST_COLUMNS, _FEWEST_COLUMNS = 72, 8
_SHORTEST, _TALLEST, _FIELD = 2.0, 16.0, 240.0
_KEY = 62

# Some of the colours of cividis (Nunez, Anderton and Renslow 2018), which colour-blind people see in their order.
_CIVIDIS = ((0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102), (254, 232, 56))


def colours() -> list[str]:
    """That of each level, from the lowest density to the highest."""
    found = []
    for level in range(LEVELS):
        place = level / (LEVELS - 1) * (len(_CIVIDIS) - 1)
        index = min(int(place), len(_CIVIDIS) - 2)
        mixed = [
            round(low + (high - low) * (place - index))
            for low, high in zip(_CIVIDIS[index], _CIVIDIS[index + 1], strict=True)
        ]
        found.append("#{:02x}{:02x}{:02x}".format(*mixed))
    return found


def drawable(run: RunReport) -> bool:
    """Whether there are masks that changed, of not too many layers."""
    return run.history is not None and bool(run.history.updates) and len(run.history.layers) <= MOST_LAYERS


def columns(layers: int, cells: int) -> int:
    """Times that are shown of so many layers when there are so many cells."""
    return max(min(_MOST_COLUMNS, cells // max(layers, 1)), _FEWEST_COLUMNS)


def draw(run: RunReport, name: str, *, cells: int) -> Markup:
    """The picture of a run that is ``drawable``, of about that many ``cells``."""
    told = run.history
    assert told is not None  # noqa: S101  drawable says so
    states = [told.before, *told.updates]
    begin, end = told.begins_at, max(told.step, told.begins_at + 1)
    count = columns(len(told.layers), cells)
    steps = [begin + (end - begin) * (index + 0.5) / count for index in range(count)]
    times = [state.step for state in states]
    shown = [states[max(bisect_right(times, step) - 1, 0)] for step in steps]
    shares = [[state.layers[layer.name] / layer.parameters for state in shown] for layer in told.layers]
    least = min((share for row in shares for share in row if share > 0), default=1.0)
    height = min(max(_FIELD / len(shares), _SHORTEST), _TALLEST)
    bottom = _TOP + height * len(shares)
    width = (WIDTH - _LEFT - _RIGHT) / count
    levels = [[_level(share, least) for share in row] for row in shares]
    first, last = min(told.layers, key=lambda one: one.density), max(told.layers, key=lambda one: one.density)
    words = (
        f"{len(shares)} layers, from the input at the top to the output at the bottom. At the end {first.name} has the "
        f"lowest density, {100 * first.density:.3g} %, and {last.name} the highest, {100 * last.density:.3g} %. "
        "The table below has all."
    )
    return picture(
        name,
        f"Density of each layer over epochs, run {run.outcome.path.name}",
        words,
        bottom + 36 + _KEY,
        text(2, 12, "layer, from the input down to the output"),
        _field(levels, width, height),
        _axes(run, len(shares), height, bottom),
        _key(least, bottom + 36),
    )


def _level(share: float, least: float) -> int:
    """Equal factors are equal numbers of levels; a layer without active weights has the lowest."""
    if share <= 0 or least >= 1:
        return 0 if share <= 0 else LEVELS - 1
    return min(int((1 - math.log(share) / math.log(least)) * LEVELS), LEVELS - 1)


def _field(levels: Sequence[Sequence[int]], width: float, height: float) -> Markup:
    """One path for each level: cells of a level that are beside each other in a row are one rectangle."""
    paths = [""] * LEVELS
    for index, row in enumerate(levels):
        begin = 0
        for column in range(1, len(row) + 1):
            if column == len(row) or row[column] != row[begin]:
                x, y = _LEFT + begin * width, _TOP + index * height
                across = (column - begin) * width
                paths[row[begin]] += f"M{number(x)} {number(y)}h{number(across)}v{number(height)}h{number(-across)}z"
                begin = column
    return joined(*(element("path", d=path, class_=f"cell l{level}") for level, path in enumerate(paths) if path))


def _axes(run: RunReport, layers: int, height: float, bottom: float) -> Markup:
    parts = [
        text(_LEFT - 5, _TOP + (index + 0.5) * height + 4, str(index + 1), anchor="end")
        for index in spread(layers, max(min(layers, int(layers * height / 14), 12), 1))
    ]
    told = run.history
    assert told is not None  # noqa: S101  drawable says so
    begin, end = told.begins_at / told.steps_per_epoch, max(told.step, told.begins_at + 1) / told.steps_per_epoch
    scale = linear((begin, end), low=begin, high=end)
    for tick in scale.ticks:
        x = _LEFT + scale.share(tick) * (WIDTH - _LEFT - _RIGHT)
        parts += [line(x, bottom, x, bottom + 4, "axis"), text(x, bottom + 16, plain(tick), anchor="middle")]
    parts.append(text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 30, "epoch", anchor="middle"))
    return joined(*parts)


def _key(least: float, top: float) -> Markup:
    """What the colours mean."""
    if least >= 1:
        return Markup("")
    width = (WIDTH - _LEFT - _RIGHT) / LEVELS
    parts = [
        element(
            "rect",
            x=number(_LEFT + level * width),
            y=number(top + 20),
            width=number(width + (level < LEVELS - 1) * 0.4),
            height="12",
            class_=f"cell l{level}",
        )
        for level in range(LEVELS)
    ]
    parts.append(text(_LEFT, top + 14, "active weights of the layer, % (logarithmic)"))
    for index in range(5):
        share = least ** (1 - index / 4)
        x = _LEFT + index / 4 * (WIDTH - _LEFT - _RIGHT)
        anchor = "start" if index == 0 else "end" if index == 4 else "middle"
        parts.append(text(x, top + 46, f"{100 * share:.3g}", anchor=anchor))
    return joined(*parts)
