"""Terminal tables: what a column shows, and how a table is laid out where there is little room."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest

from granet.analysis.comparison import Statistic
from granet_cli.render import Screen
from granet_cli.tables import Bar, TableColumn, fits, means, table, varying


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_width(monkeypatch: pytest.MonkeyPatch) -> Any:
    def screen(width: int) -> Screen:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        screen = Screen()
        screen.file = Terminal()
        return screen

    return screen


COLUMNS: list[TableColumn[int]] = [
    TableColumn("name", lambda row: f"layer {row}", total="total"),
    TableColumn("weights", lambda row: 1000 * row, right=True, total=1_234_567),
    TableColumn("", lambda row: Bar(row / 4)),
    TableColumn("score", lambda row: None if row == 1 else f"{row}.0", right=True),
    TableColumn("hidden", lambda row: "?", shown=False),
]


def test_a_file_gets_exact_counts_and_bars_in_ascii() -> None:
    assert table(Screen(), COLUMNS, [1, 2]).plain.splitlines() == [
        "name       weights                score",
        "layer 1      1,000  ######            -",
        "layer 2      2,000  ############    2.0",
        "total    1,234,567",
    ]


@pytest.mark.parametrize(
    ("width", "row"), [(33, "total    1,234,567"), (31, "total   1,234,567"), (28, "total     1.23M")]
)
def test_a_narrow_screen_gets_closer_columns_then_rounded_counts(at_width: Any, width: int, row: str) -> None:
    screen = at_width(width)
    text = table(screen, COLUMNS, [1, 2])
    assert text.plain.splitlines()[-1] == row
    assert fits(screen, text)


def test_where_nothing_fits_lines_are_longer_than_the_screen(at_width: Any) -> None:
    screen = at_width(10)
    assert not fits(screen, table(screen, COLUMNS, [1]))


def test_a_last_column_of_text_is_wrapped(at_width: Any) -> None:
    columns: list[TableColumn[str]] = [TableColumn("a", lambda row: "x"), TableColumn("b", lambda row: row)]
    lines = table(at_width(30), columns, ["several words that do not fit one line"]).plain.splitlines()
    assert lines == ["a  b", "x  several words that do not", "   fit one line"]


def test_a_varying_column_is_shown_where_cells_differ() -> None:
    assert varying("", str, [1, 2]).shown
    assert not varying("", str, [1, 1]).shown


def test_means_are_padded_so_that_digits_align() -> None:
    known = Statistic(mean=0.5, deviation=0.01, count=2)
    single = Statistic(mean=0.25, deviation=None, count=1)
    assert means([known, single, None], marks=["", "*", ""]) == ["50.00% ± 1.00", "25.00%*      ", "-       "]
