"""Terminal tables: columns declared once, laid out in the roomiest form that fits the screen.

JSON comes from the values that a table shows, not from its cells: those are rounded, and chosen for reading.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.cells import cell_len
from rich.text import Text

from granet_cli.render import Screen, bar, percent, printable, short

if TYPE_CHECKING:
    from granet.analysis.comparison import Statistic

Row = TypeVar("Row")

_NARROWEST_BAR, _WIDEST_BAR = 6, 24
_NARROWEST_TEXT = 20
"""Characters that the last column keeps at least when its text is wrapped."""


@dataclass(frozen=True)
class Bar:
    """A cell that draws a share, 0 to 1, in the room that the other columns leave."""

    share: float


Cell = str | Text | int | Bar | None
"""An int is a count: 1,234,567, or 1.23M on a narrow screen. None is unknown: "-"."""


@dataclass(frozen=True)
class TableColumn(Generic[Row]):
    """A column of a terminal table.

    Args:
        title: its heading.
        cell: what it shows of a row.
        right: whether cells are aligned to the right, as numbers are.
        total: its cell in a last, bold row; a table whose columns have none gets no such row.
        shown: whether the table has it.
    """

    title: str
    cell: Callable[[Row], Cell]
    right: bool = False
    total: Cell = ""
    shown: bool = True


def varying(title: str, cell: Callable[[Row], str], rows: Sequence[Row]) -> TableColumn[Row]:
    """Return a column that is shown where its cells are not all the same."""
    return TableColumn(title, cell, shown=len({cell(row) for row in rows}) > 1)


def table(screen: Screen, columns: Sequence[TableColumn[Row]], rows: Iterable[Row]) -> Text:
    """Lay out aligned columns under a bold heading, without rules.

    The first form that fits the screen is taken: exact counts, closer columns, rounded counts, both. Bars fill what is
    left of the width, and a last column of plain text to the left is wrapped to it. Where no form fits, lines are
    longer than the screen.
    """
    columns = [column for column in columns if column.shown]
    cells: list[list[Cell]] = [[column.cell(row) for column in columns] for row in rows]
    total = any(column.total != "" for column in columns)
    if total:
        cells.append([column.total for column in columns])
    wraps = not columns[-1].right and all(isinstance(row[-1], str) for row in cells)
    bars = any(isinstance(cell, Bar) for row in cells for cell in row)

    for exact, gap in ((True, 2), (True, 1), (False, 2), (False, 1)):
        texts = [[_text(cell, screen, exact=exact, width=0) for cell in row] for row in cells]
        room = _room(screen, columns, texts, gap, wraps=wraps)
        if room >= (_NARROWEST_BAR if bars else 0):
            break
    width = max(_NARROWEST_BAR, min(room, _WIDEST_BAR))
    texts = [[_text(cell, screen, exact=exact, width=width) for cell in row] for row in cells]
    if total:
        texts[-1] = [
            text if isinstance(cell, Bar) else Text(text.plain, style="bold")
            for cell, text in zip(cells[-1], texts[-1], strict=True)
        ]
    if wraps and screen.columns is not None:
        texts = _wrapped(texts, room + min(_sizes(columns, texts)[-1], _NARROWEST_TEXT))
    sizes = _sizes(columns, texts)
    headings = [Text(column.title, style="bold") for column in columns]
    return Text("\n").join(_line(row, columns, sizes, gap) for row in [headings, *texts])


def fits(screen: Screen, text: Text) -> bool:
    """Return whether no line of ``text`` is longer than the screen is wide."""
    return screen.columns is None or max(line.cell_len for line in text.split()) <= screen.columns


def means(
    statistics: Sequence[Statistic | None],
    form: Callable[[float], str] = percent,
    *,
    digits: int = 2,
    marks: Sequence[str] | None = None,
) -> list[str]:
    """Format means and deviations of shares, such as "87.35% ± 0.35", so that digits align when set to the right.

    Args:
        statistics: one for each row; None is unknown.
        form: formats a mean.
        digits: decimals of the deviation, in points.
        marks: put behind a mean that has no deviation, one for each row.
    """
    suffixes = [
        f" ± {100 * s.deviation:.{digits}f}" if s is not None and s.deviation is not None else mark
        for s, mark in zip(statistics, marks or [""] * len(statistics), strict=True)
    ]
    width = max(map(len, suffixes), default=0)
    pairs = zip(statistics, suffixes, strict=True)
    return [("-" if s is None else form(s.mean)) + suffix.ljust(width) for s, suffix in pairs]


def _text(cell: Cell, screen: Screen, *, exact: bool, width: int) -> Text:
    if isinstance(cell, Text):
        return cell
    if isinstance(cell, Bar):
        return bar(cell.share, width, screen) if width else Text()
    if isinstance(cell, int):
        return Text(f"{cell:,}" if exact else short(cell))
    return Text("-" if cell is None else printable(cell))


def _sizes(columns: Sequence[TableColumn[Row]], texts: Sequence[Sequence[Text]]) -> list[int]:
    return [
        max(cell_len(column.title), *(row[index].cell_len for row in texts), 0) for index, column in enumerate(columns)
    ]


def _room(
    screen: Screen, columns: Sequence[TableColumn[Row]], texts: Sequence[Sequence[Text]], gap: int, *, wraps: bool
) -> int:
    """Return how many characters of the screen's width are left."""
    if screen.columns is None:
        return 10_000
    sizes = _sizes(columns, texts)
    if wraps:
        sizes[-1] = min(sizes[-1], _NARROWEST_TEXT)
    return screen.columns - sum(sizes) - gap * (len(sizes) - 1)


def _wrapped(texts: Sequence[Sequence[Text]], width: int) -> list[list[Text]]:
    """Continue the last column in rows of its own where it is wider than ``width``."""
    rows = []
    for row in texts:
        first, *rest = textwrap.wrap(row[-1].plain, max(width, _NARROWEST_TEXT)) or [""]
        rows.append([*row[:-1], Text(first, style=row[-1].style)])
        rows += [[*(Text() for _ in row[:-1]), Text(line)] for line in rest]
    return rows


def _line(cells: Sequence[Text], columns: Sequence[TableColumn[Row]], sizes: Sequence[int], gap: int) -> Text:
    line = Text()
    for cell, column, size in zip(cells, columns, sizes, strict=True):
        padding = " " * (size - cell.cell_len)
        line.append(padding).append(cell) if column.right else line.append(cell).append(padding)
        line.append(" " * gap)
    line.rstrip()
    return line
