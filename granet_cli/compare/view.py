"""A comparison for people: a row for every group of runs, and what is set differently in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.render import FAINT, Column, Screen, percent, printable, size, table

if TYPE_CHECKING:
    from granet.analysis.comparison import Comparison, RunGroup, Statistic

ORDERS: Mapping[str, Callable[[RunGroup], Any] | None] = {
    "given": None,
    "method": lambda group: (group.first.recipe.method.name, group.first.mode or "", group.first.round or 0),
    "density": lambda group: -group.density,
    "accuracy": lambda group: _down(group.test_accuracy),
    "validation": lambda group: _down(group.validation_accuracy),
    "flops": lambda group: _down(group.flops_share),
    "size": lambda group: -group.bytes,
}
"""The sort keys by what ``--sort`` calls them; numbers from the largest down, those that are not known last."""

UNFINISHED = "*"
_MOST_NAMED, _LONGEST_BRACES = 6, 40


def arrange(groups: Iterable[RunGroup], order: str) -> tuple[RunGroup, ...]:
    """The groups in an ``order`` of ``ORDERS``; those that are equal in it stay as they are.

    Raises:
        UnknownNameError: no such order.
    """
    from granet.errors import UnknownNameError

    if order not in ORDERS:
        raise UnknownNameError("column", order, ORDERS, where="--sort")
    key = ORDERS[order]
    return tuple(groups if key is None else sorted(groups, key=key))


def show(screen: Screen, comparison: Comparison, *, settings: bool) -> None:
    """Writes the table, and with ``settings`` that of what is set differently."""
    groups = comparison.groups
    shown = _columns(groups, numbered=settings)
    common = _common_folder(groups)
    screen.print(_fitting(screen, shown, groups, common))
    for remark in _remarks(groups):
        screen.print(Text(remark, style=FAINT))
    keys = list(groups[0].settings)
    if keys and settings:
        screen.print()
        screen.print(_settings(screen, groups))
    elif keys:
        named = ", ".join(keys[:_MOST_NAMED]) + (f" and {len(keys) - _MOST_NAMED} more" if keys[_MOST_NAMED:] else "")
        screen.prose(Text(f"set differently: {named}; --settings shows how", style=FAINT))


@dataclass(frozen=True)
class _Shown:
    """A column of the table and what stands in it, row by row."""

    column: Column
    cells: list[str]


def _columns(groups: Sequence[RunGroup], *, numbered: bool) -> list[_Shown]:
    """All columns but the first, which names the runs. What is the same in every row, and could be, is left out."""

    def texts(title: str, cell: Callable[[RunGroup], str], *, right: bool = False) -> _Shown:
        return _Shown(Column(title, right=right), [cell(group) for group in groups])

    def varying(title: str, cell: Callable[[RunGroup], str]) -> list[_Shown]:
        column = texts(title, cell)
        return [column] if len(set(column.cells)) > 1 else []

    rewound = [group for group in groups if group.first.mode is not None]
    origins = {_origin(group) for group in rewound}
    return [
        *([_Shown(Column("#", right=True), [str(n + 1) for n in range(len(groups))])] if numbered else []),
        *varying("recipe", lambda group: group.first.recipe.name),
        *varying("model", lambda group: group.first.model),
        *varying("data", lambda group: group.first.recipe.data.name),
        texts("method", lambda group: group.first.recipe.method.name),
        *([texts("rewound", lambda group: group.first.mode or "-")] if rewound else []),
        *([texts("after", _origin)] if len(origins) > 1 else []),
        *([texts("round", _round, right=True)] if any((group.first.rounds or 1) > 1 for group in groups) else []),
        *([texts("seeds", lambda g: str(len(g.runs)), right=True)] if any(len(g.runs) > 1 for g in groups) else []),
        texts("density", lambda group: f"{group.density:.4f}", right=True),
        _Shown(Column("test", right=True), accuracies([group.test_accuracy for group in groups])),
        _Shown(
            Column("validation", right=True),
            accuracies([group.validation_accuracy for group in groups], [not group.finished for group in groups]),
        ),
        texts("FLOPs", lambda group: "-" if (s := group.flops_share) is None else f"{s.mean:.1%}", right=True),
        texts("size", lambda group: size(round(group.bytes)), right=True),
    ]


def accuracies(statistics: Sequence[Statistic | None], marked: Sequence[bool] | None = None) -> list[str]:
    """Means and deviations in per cent, such as "87.35% ± 0.35", so padded that digits align when set to the right."""
    marks = [UNFINISHED if mark else "" for mark in marked or [False] * len(statistics)]
    behind = [
        f" ± {100 * s.deviation:.2f}" if s is not None and s.deviation is not None else mark
        for s, mark in zip(statistics, marks, strict=True)
    ]
    width = max(map(len, behind), default=0)
    return [
        ("-" if s is None else percent(s.mean)) + rest.ljust(width) for s, rest in zip(statistics, behind, strict=True)
    ]


def _fitting(screen: Screen, shown: Sequence[_Shown], groups: Sequence[RunGroup], common: str) -> Text:
    """The table in the roomiest form that fits: whole paths, else closer columns, else paths from ``common`` on."""
    names = [[str(run.path) for run in group.runs] for group in groups]
    short = [[path.removeprefix(common) or path for path in paths] for paths in names]
    for paths, gap in ((names, 2), (names, 1), (short, 1)):
        title = "run" if paths is names or not common else f"run in {common}"
        first = _Shown(Column(title), [together(row) for row in paths])
        columns = [first, *shown] if shown[0].column.title != "#" else [shown[0], first, *shown[1:]]
        rows = list(zip(*(column.cells for column in columns), strict=True))
        text = table([column.column for column in columns], rows, gap=gap, width=None)
        if screen.columns is None or max(map(len, text.plain.splitlines())) <= screen.columns:
            break
    return text


def together(paths: Sequence[str]) -> str:
    """Several paths as one word in the way of a shell, runs/seed-{0,1,2}, or the first and how many more."""
    if len(paths) == 1:
        return paths[0]
    front = re.sub(r"\d+$", "", _shared(paths))  # numbers stay whole
    rest = [path[len(front) :] for path in paths]
    back = re.sub(r"^\d+", "", _shared([path[::-1] for path in rest])[::-1])
    braces = "{" + ",".join(path[: len(path) - len(back)] for path in rest) + "}"
    return f"{front}{braces}{back}" if len(braces) <= _LONGEST_BRACES else f"{paths[0]} and {len(paths) - 1} more"


def _common_folder(groups: Iterable[RunGroup]) -> str:
    """The folder that all runs are in, with its separator, or nothing."""
    common = _shared([str(run.path) for group in groups for run in group.runs])
    return common[: common.rfind("/") + 1]


def _shared(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    return os.path.commonprefix(texts)  # noqa: RUF071  characters are meant


def _round(group: RunGroup) -> str:
    return "-" if group.first.round is None else f"{group.first.round}/{group.first.rounds}"


def _origin(group: RunGroup) -> str:
    """The checkpoint that a rewound run goes back to in the end."""
    return str(group.first.ancestors[0]) if group.first.ancestors else "-"


def _remarks(groups: Sequence[RunGroup]) -> list[str]:
    remarks = []
    if any(len(group.runs) > 1 for group in groups):
        remarks.append("±: sample standard deviation over seeds, in points")
    if not all(group.finished for group in groups):
        remarks.append(f"{UNFINISHED} not finished: the best accuracy so far, before the final density the newest")
    return remarks


def _settings(screen: Screen, groups: Sequence[RunGroup]) -> Text:
    """For every setting the values it has, and in which rows."""
    rows: list[list[str | Text]] = []
    for key in groups[0].settings:
        values: dict[str, list[int]] = {}
        for number, group in enumerate(groups, 1):
            values.setdefault(told(group.settings[key]), []).append(number)
        for index, (value, numbers) in enumerate(values.items()):
            rows.append([key if index == 0 else "", _ranges(numbers), value])
    return table([Column("setting"), Column("rows"), Column("value")], rows, width=screen.columns)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as 1, 3-5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def told(value: object) -> str:
    """The value of a setting in words."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(told, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else printable(value)


def _down(statistic: Statistic | None) -> float:
    return float("inf") if statistic is None else -statistic.mean
