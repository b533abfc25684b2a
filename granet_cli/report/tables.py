"""The tables of the page, each in a box of its own that scrolls when it is wider than the screen."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from granet_cli.compare.view import brace_paths
from granet_cli.layers import stem
from granet_cli.render import duration, percent, setting, short, size
from granet_cli.report.markup import Child, Markup, element, joined, number
from granet_cli.tables import means

if TYPE_CHECKING:
    from granet.analysis.comparison import RunGroup
    from granet.analysis.inspection import LayerReport
    from granet.analysis.run_report import RunReport
    from granet.runs.sessions import RunSession

UNKNOWN = "-"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True)
class HtmlColumn:
    """A column: its heading and the class of its cells, ``n`` for numbers."""

    title: str
    kind: str | None = None


def table(
    caption: str,
    columns: Sequence[HtmlColumn],
    rows: Sequence[Sequence[Child]],
    *,
    headed: int = 0,
    cards: bool = False,
) -> Markup:
    """A table in a box; the cell at ``headed`` is the heading of its row.

    With ``cards`` each row becomes a list of names and values where the screen is narrow. Roles are written out, since
    a table that is laid out otherwise loses them.
    """

    def cell(index: int, column: HtmlColumn, content: Child) -> Markup:
        heads = index == headed
        return element(
            "th" if heads else "td",
            content,
            scope="row" if heads else None,
            role=("rowheader" if heads else "cell") if cards else None,
            class_=column.kind,
            data_label=column.title if cards else None,
        )

    def role(name: str) -> str | None:
        return name if cards else None

    heads = [element("th", c.title, scope="col", role=role("columnheader"), class_=c.kind) for c in columns]
    body = [
        element(
            "tr", [cell(index, *pair) for index, pair in enumerate(zip(columns, row, strict=True))], role=role("row")
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", heads, role=role("row")), role=role("rowgroup")),
            element("tbody", body, role=role("rowgroup")),
            role=role("table"),
            class_="cards" if cards else None,
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def short_names(runs: Sequence[RunReport]) -> tuple[str, list[str]]:
    """The folder that all runs are in, with its separator, or nothing; and their paths from there on."""
    paths = [str(run.outcome.path) for run in runs]
    common = os.path.commonprefix([f"{os.path.dirname(path)}/" for path in paths])  # noqa: PTH120, RUF071
    common = common[: common.rfind("/") + 1]
    if len(paths) == 1 or common.count("/") < 2:
        return "", paths
    return common, [path.removeprefix(common) for path in paths]


def results(runs: Sequence[RunReport], names: Sequence[str]) -> Markup:
    """What came out; ``names`` are what the runs are called."""
    rewound = any(run.outcome.mode for run in runs)
    rows = []
    for index, (run, name) in enumerate(zip(runs, names, strict=True), 1):
        one = run.outcome
        rounds = "" if one.round is None else f", round {one.round} of {one.rounds}"
        rows.append(
            [
                str(index),
                element("a", name, href=f"#run-{index}") if index <= MOST_DETAILED else name,
                element("span", state(run), class_="state"),
                one.recipe.name,
                one.recipe.method.name,
                *([UNKNOWN if one.mode is None else f"{one.mode}{rounds}"] if rewound else []),
                f"{one.density:.4f}",
                str(one.seed),
                _accuracy(one.validation_accuracy),
                _accuracy(one.test_accuracy),
            ]
        )
    columns = [
        HtmlColumn("#", "n"),
        HtmlColumn("run", "path"),
        HtmlColumn("state"),
        HtmlColumn("recipe"),
        HtmlColumn("method"),
        *([HtmlColumn("rewound")] if rewound else []),
        HtmlColumn("density", "n"),
        HtmlColumn("seed", "n"),
        HtmlColumn("validation accuracy", "n"),
        HtmlColumn("test accuracy", "n"),
    ]
    return table("Results, of the checkpoint that each run is judged by", columns, rows, cards=True)


MOST_DETAILED = 12
"""Runs with a section of their own."""


def state(run: RunReport) -> str:
    """Where a run stands."""
    if run.outcome.finished:
        return "finished"
    end = "" if run.outcome.total_steps is None else f" of {run.outcome.total_steps:,}"
    return f"{run.state}, at step {run.outcome.step:,}{end}"


def costs(runs: Sequence[RunReport]) -> Markup:
    """What it took."""
    rows = []
    for index, run in enumerate(runs, 1):
        one, training = run.outcome, run.training_flops
        flops = one.flops
        rows.append(
            [
                str(index),
                UNKNOWN if flops is None else short(flops["dense"]),
                UNKNOWN if flops is None else f"{short(flops['active'])} ({share(flops['active'], flops['dense'])})",
                UNKNOWN if training is None else f"{training['dense']:.2e}",
                UNKNOWN
                if training is None
                else f"{training['active']:.2e} ({share(training['active'], training['dense'])})",
                f"{one.total_parameters:,}",
                f"{run.active_parameters:,}",
                size(one.bytes),
                UNKNOWN if run.seconds is None else duration(run.seconds),
            ]
        )
    columns = [HtmlColumn("#", "n")] + [
        HtmlColumn(title, "n")
        for title in (
            *("FLOPs an image, dense", "FLOPs an image, active", "training FLOPs, dense", "training FLOPs, active"),
            *("parameters", "parameters, active", "file", "time, h:min:s"),
        )
    ]
    return table("Costs", columns, rows, cards=True)


def over_seeds(groups: Sequence[RunGroup], numbers: Mapping[str, int], names: Sequence[str]) -> Markup:
    """Mean and deviation of runs that differ in their seed alone."""
    tests = means([group.test_accuracy for group in groups])
    validations = means([group.validation_accuracy for group in groups])
    rows = [
        [
            ", ".join(str(numbers[str(run.path)]) for run in group.runs),
            element("span", brace_paths([names[numbers[str(run.path)] - 1] for run in group.runs]), class_="path"),
            group.first.recipe.method.name,
            str(len(group.runs)),
            f"{group.density:.4f}",
            validation.strip(),
            test.strip(),
        ]
        for group, validation, test in zip(groups, validations, tests, strict=True)
    ]
    columns = [
        HtmlColumn("#", "key"),
        HtmlColumn("runs", "path"),
        HtmlColumn("method"),
        *(HtmlColumn(t, "n") for t in ("seeds", "density", "validation accuracy", "test accuracy")),
    ]
    return table("Over seeds: mean ± sample standard deviation, in points", columns, rows, cards=True)


def settings_apart(groups: Sequence[RunGroup], numbers: Mapping[str, int]) -> Markup | None:
    """The settings that are not the same in all runs; None when there are none but seeds."""
    keys = list(groups[0].settings)
    rows: list[list[Child]] = []
    for key in keys:
        values: dict[str, list[int]] = {}
        for group in groups:
            where = values.setdefault(setting(group.settings[key]), [])
            where += [numbers[str(run.path)] for run in group.runs]
        items = [
            element("li", element("b", value), f" in {', '.join(map(str, sorted(found)))}")
            for value, found in values.items()
        ]
        rows.append([key, element("ul", items, class_="values")])
    columns = [HtmlColumn("setting", "key"), HtmlColumn("values, and the runs that have them")]
    return table("Settings that differ", columns, rows) if rows else None


def layers(run: RunReport) -> Markup:
    """Every masked layer of the checkpoint that a run is judged by."""
    rows = [
        [
            str(index),
            stem(layer.name),
            f"{layer.density:.4f}",
            bar(layer.density),
            f"{layer.active:,}",
            f"{layer.parameters:,}",
            percent(layer.explored),
            UNKNOWN if layer.flops_share is None else f"{layer.flops_share:.1%}",
            f"{layer.dead_inputs:,}",
            f"{layer.dead_outputs:,}",
            _shape(layer),
        ]
        for index, layer in enumerate(run.inspection.layers, 1)
    ]
    columns = [
        HtmlColumn("#", "n"),
        HtmlColumn("layer", "path"),
        HtmlColumn("density", "n"),
        HtmlColumn("0 to 1"),
        *(
            HtmlColumn(title, "n")
            for title in ("active", "weights", "explored", "FLOPs", "dead inputs", "dead outputs")
        ),
        HtmlColumn("shape", "key"),
    ]
    return table(f"Layers of {run.outcome.checkpoint}", columns, rows, headed=1)


def settings(run: RunReport) -> Markup:
    """All settings of a run."""
    rows: list[list[Child]] = []
    for key, value in run.outcome.recipe.as_dict().items():
        leaves = value.items() if isinstance(value, Mapping) else [(None, value)]
        rows += [[key if leaf is None else f"{key}.{leaf}", setting(one)] for leaf, one in leaves]
    return table("All settings", [HtmlColumn("setting", "key"), HtmlColumn("value", "path")], rows)


def sessions(runs: Sequence[RunReport]) -> Markup:
    """Where and when runs were trained, as they noted it."""
    noted = [(number, session) for number, run in enumerate(runs, 1) for session in run.sessions]
    shown = noted[:MOST_SESSIONS]
    rows = [
        [str(n), f"{one.step:,}", _when(one.time), *(_fact(one, keys) for keys in _FACTS.values())] for n, one in shown
    ]
    silent = [str(number) for number, run in enumerate(runs, 1) if not run.sessions]
    columns = [HtmlColumn("#", "n"), HtmlColumn("from step", "n"), HtmlColumn("begun, UTC"), *map(HtmlColumn, _FACTS)]
    remarks = []
    if silent:
        which = f" of {', '.join(silent)}" if len(runs) > 1 else ""
        remarks.append(f"Where and when training{which} took place was not noted; granet train notes it.")
    if len(noted) > len(shown):
        remarks.append(f"The first {len(shown)} of {len(noted):,} sessions; --json has all.")
    return joined(
        table("Where and when the runs were trained", columns, rows, cards=True) if rows else None,
        element("p", " ".join(remarks), class_="faint") if remarks else None,
    )


MOST_SESSIONS = 60
"""Rows of that table."""

_FACTS: Mapping[str, tuple[str, ...]] = {
    "device": ("device",),
    "precision": ("precision",),
    "ranks": ("ranks",),
    "processor": ("processor",),
    "cores": ("cores",),
    "system": ("system",),
    "software": ("granet", "torch", "Python"),
}
"""Columns of that table, and the facts in each."""


def _fact(session: RunSession, keys: Sequence[str]) -> str:
    named = len(keys) > 1
    told = [f"{key} {session.facts[key]}" if named else str(session.facts[key]) for key in keys if key in session.facts]
    return ", ".join(told) or UNKNOWN


def files(runs: Sequence[RunReport]) -> Markup:
    """What the files of runs tell."""
    rows = [
        [
            str(number),
            _when(run.begun),
            _when(run.saved),
            run.outcome.recipe.training.precision,
            "yes" if run.outcome.recipe.training.deterministic else "no",
        ]
        for number, run in enumerate(runs, 1)
    ]
    columns = [
        HtmlColumn("#", "n"),
        HtmlColumn("recipe.toml written"),
        HtmlColumn("newest checkpoint written"),
        HtmlColumn("precision asked for"),
        HtmlColumn("deterministic kernels"),
    ]
    return table("What the folders tell", columns, rows, cards=True)


def _when(time: str | None) -> str:
    """A time as people write it, to the minute."""
    if time is None:
        return UNKNOWN
    return f"{time[:10]} {time[11:16]}" if _TIME.fullmatch(time) else time


def share(part: float, whole: float) -> str:
    """A part of a whole, in per cent."""
    return f"{part / whole:.1%}" if whole else UNKNOWN


def bar(part: float) -> Markup:
    """A share, 0 to 1, as a bar; the number stands beside it."""
    return element(
        "svg",
        element("rect", width="100", height="8", class_="trough"),
        element("rect", width=number(max(100 * part, 0.8 if part > 0 else 0.0)), height="8", class_="fill"),
        viewbox="0 0 100 8",
        preserveaspectratio="none",
        aria_hidden="true",
        class_="bar",
    )


def _accuracy(value: float | None) -> str:
    return UNKNOWN if value is None else percent(value)


def _shape(layer: LayerReport) -> str:
    return " x ".join(map(str, layer.shape))
