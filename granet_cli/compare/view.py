"""A comparison for people: a row for every group of runs, and what is set differently in them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from granet.errors import listing
from granet_cli.layers import SortKeys
from granet_cli.render import FAINT, Screen, common_folder, setting, size
from granet_cli.tables import TableColumn, fits, means, table, varying

if TYPE_CHECKING:
    from granet.analysis.comparison import Comparison, RunGroup, Statistic

ORDERS: SortKeys = {
    "given": None,
    "method": lambda group: (group.first.recipe.method.name, group.first.mode or "", group.first.round or 0),
    "density": lambda group: -group.density,
    "accuracy": lambda group: _descending(group.test_accuracy),
    "validation": lambda group: _descending(group.validation_accuracy),
    "flops": lambda group: _descending(group.flops_share),
    "size": lambda group: -group.bytes,
}
"""Sort keys of groups by what ``--sort`` calls them; numbers from the largest down, unknown ones last."""

UNFINISHED = "*"
_MOST_NAMED, _LONGEST_BRACES = 6, 40


def show(screen: Screen, comparison: Comparison, *, settings: bool) -> None:
    """Write the table of groups, and with ``settings`` that of what is set differently."""
    groups = comparison.groups
    screen.print(_table(screen, groups, numbered=settings))
    for remark in _remarks(groups):
        screen.print(Text(remark, style=FAINT))
    keys = list(groups[0].settings)
    if keys and settings:
        screen.print()
        screen.print(_settings(screen, groups))
    elif keys:
        named = listing(keys, _MOST_NAMED)
        screen.prose(Text(f"set differently: {named}; --settings shows how", style=FAINT))


def _table(screen: Screen, groups: Sequence[RunGroup], *, numbered: bool) -> Text:
    """Lay out the groups, with paths from the folder on that all runs are in where whole ones do not fit.

    Columns whose cells are the same in every row, and could be, are left out.
    """
    numbers = {id(group): number for number, group in enumerate(groups, 1)}
    rewound = [group for group in groups if group.first.mode is not None]
    tests, validations = (
        dict(zip(numbers, texts, strict=True))
        for texts in (
            means([group.test_accuracy for group in groups]),
            means(
                [group.validation_accuracy for group in groups],
                marks=["" if group.finished else UNFINISHED for group in groups],
            ),
        )
    )
    common = common_folder([str(run.path) for group in groups for run in group.runs])
    for start in ("", common):
        columns: list[TableColumn[RunGroup]] = [
            TableColumn("#", lambda group: str(numbers[id(group)]), right=True, shown=numbered),
            TableColumn(f"run in {start}" if start else "run", partial(_runs, start=start)),
            varying("recipe", lambda group: group.first.recipe.name, groups),
            varying("model", lambda group: group.first.model, groups),
            varying("data", lambda group: group.first.recipe.data.name, groups),
            TableColumn("method", lambda group: group.first.recipe.method.name),
            TableColumn("rewound", lambda group: group.first.mode, shown=bool(rewound)),
            TableColumn("after", _origin, shown=len({_origin(group) for group in rewound}) > 1),
            TableColumn("round", _round, right=True, shown=any((group.first.rounds or 1) > 1 for group in groups)),
            TableColumn(
                "seeds", lambda group: len(group.runs), right=True, shown=any(len(group.runs) > 1 for group in groups)
            ),
            TableColumn("density", lambda group: f"{group.density:.4f}", right=True),
            TableColumn("test", lambda group: tests[id(group)], right=True),
            TableColumn("validation", lambda group: validations[id(group)], right=True),
            TableColumn("FLOPs", lambda group: _mean_share(group.flops_share), right=True),
            TableColumn("size", lambda group: size(round(group.bytes)), right=True),
        ]
        text = table(screen, columns, groups)
        if fits(screen, text):
            break
    return text


def _runs(group: RunGroup, start: str) -> str:
    """Name the runs of a group by their paths without the folder ``start`` that they share."""
    paths = [str(run.path) for run in group.runs]
    return brace_paths([path.removeprefix(start) or path for path in paths])


def brace_paths(paths: Sequence[str]) -> str:
    """Join paths in the way of a shell, runs/seed-{0,1,2}, or give the first and how many more there are."""
    if len(paths) == 1:
        return paths[0]
    front = re.sub(r"\d+$", "", _shared(paths))  # numbers stay whole
    rest = [path[len(front) :] for path in paths]
    back = re.sub(r"^\d+", "", _shared([path[::-1] for path in rest])[::-1])
    braces = "{" + ",".join(path[: len(path) - len(back)] for path in rest) + "}"
    return f"{front}{braces}{back}" if len(braces) <= _LONGEST_BRACES else listing(paths)


def _shared(texts: Sequence[str]) -> str:
    """Return what all of them begin with."""
    return os.path.commonprefix(texts)  # noqa: RUF071  characters are meant


def _round(group: RunGroup) -> str | None:
    return None if group.first.round is None else f"{group.first.round}/{group.first.rounds}"


def _origin(group: RunGroup) -> str | None:
    """Describe the checkpoint that a rewound run goes back to in the end."""
    return str(group.first.ancestors[0]) if group.first.ancestors else None


def _mean_share(statistic: Statistic | None) -> str | None:
    return None if statistic is None else f"{statistic.mean:.1%}"


def _remarks(groups: Sequence[RunGroup]) -> list[str]:
    remarks = []
    if any(len(group.runs) > 1 for group in groups):
        remarks.append("±: sample standard deviation over seeds, in points")
    if not all(group.finished for group in groups):
        remarks.append(f"{UNFINISHED} not finished: the best accuracy so far, before the final density the newest")
    return remarks


def _settings(screen: Screen, groups: Sequence[RunGroup]) -> Text:
    """Lay out for every setting the values it has, and in which rows."""
    rows: list[tuple[str, str, str]] = []
    for key in groups[0].settings:
        values: dict[str, list[int]] = {}
        for number, group in enumerate(groups, 1):
            values.setdefault(setting(group.settings[key]), []).append(number)
        for index, (value, numbers) in enumerate(values.items()):
            rows.append((key if index == 0 else "", _ranges(numbers), value))
    columns: list[TableColumn[tuple[str, str, str]]] = [
        TableColumn("setting", lambda row: row[0]),
        TableColumn("rows", lambda row: row[1]),
        TableColumn("value", lambda row: row[2]),
    ]
    return table(screen, columns, rows)


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as 1, 3-5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _descending(statistic: Statistic | None) -> float:
    return float("inf") if statistic is None else -statistic.mean
