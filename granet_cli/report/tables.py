"""The tables of the page, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from granet_cli.compare.view import brace_paths
from granet_cli.layers import stem
from granet_cli.render import common_folder, duration, percent, setting, short, size
from granet_cli.report.facts import state
from granet_cli.tables import means

if TYPE_CHECKING:
    from granet.analysis.comparison import RunGroup
    from granet.analysis.run_report import RunReport

MOST_DETAILED = 12
"""Runs with a section of their own."""
MOST_SESSIONS = 60
"""Rows of the table of sessions."""

_UNKNOWN = "-"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

Cell = str | float | tuple[str, str] | Mapping[str, str]
"""Text; a share, 0 to 1, drawn as a bar; text with the name of the section that it links to; or values, each with the
runs that have it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: its rows are cells by the title of the column."""

    caption: str
    rows: Sequence[Mapping[str, Cell]]
    text: Mapping[str, str]
    """The columns that do not hold numbers, with their CSS class."""
    heading: str = "#"
    """The column whose cells are headings of their rows."""
    cards: bool = True
    """Whether each row becomes a list of names and values where the screen is narrow."""


def short_names(runs: Sequence[RunReport]) -> tuple[str, list[str]]:
    """Return the folder that all runs are in, with its separator, or nothing; and their paths from there on."""
    paths = [str(run.summary.path) for run in runs]
    common = common_folder(paths)
    if len(paths) == 1 or common.count("/") < 2:
        return "", paths
    return common, [path.removeprefix(common) for path in paths]


def results(runs: Sequence[RunReport], names: Sequence[str]) -> Table:
    """Return accuracies and densities; ``names`` are what the runs are called."""
    rewound = any(run.summary.mode for run in runs)
    rows = []
    for index, (run, name) in enumerate(zip(runs, names, strict=True), 1):
        one = run.summary
        rounds = "" if one.round is None else f", round {one.round} of {one.rounds}"
        rows.append(
            {
                "#": str(index),
                "run": (name, f"run-{index}") if index <= MOST_DETAILED else name,
                "state": state(run),
                "recipe": one.recipe.name,
                "method": one.recipe.method.name,
                **({"rewound": _UNKNOWN if one.mode is None else f"{one.mode}{rounds}"} if rewound else {}),
                "density": f"{one.inspection.density:.4f}",
                "seed": str(one.seed),
                "validation accuracy": _accuracy(one.validation_accuracy),
                "test accuracy": _accuracy(one.test_accuracy),
            }
        )
    text = {"run": "path", "state": "key", "recipe": "", "method": "", "rewound": ""}
    return Table(caption="Results, of the checkpoint that each run is judged by", rows=rows, text=text)


def costs(runs: Sequence[RunReport]) -> Table:
    """Return FLOPs, parameters, sizes and times."""
    rows = []
    for index, run in enumerate(runs, 1):
        one, training, flops = run.summary, run.training_flops, run.inspection.flops
        rows.append(
            {
                "#": str(index),
                "FLOPs an image, dense": short(flops["dense"]) if flops else _UNKNOWN,
                "FLOPs an image, active": f"{short(flops['active'])} ({_share(flops)})" if flops else _UNKNOWN,
                "training FLOPs, dense": f"{training['dense']:.2e}" if training else _UNKNOWN,
                "training FLOPs, active": f"{training['active']:.2e} ({_share(training)})" if training else _UNKNOWN,
                "parameters": f"{one.inspection.total_parameters:,}",
                "parameters, active": f"{run.active_parameters:,}",
                "file": size(one.bytes),
                "time, h:min:s": _UNKNOWN if run.seconds is None else duration(run.seconds),
            }
        )
    return Table(caption="Costs", rows=rows, text={})


def over_seeds(groups: Sequence[RunGroup], numbers: Mapping[str, int], names: Sequence[str]) -> Table:
    """Return mean and deviation of runs that differ in their seed alone."""
    tests = means([group.test_accuracy for group in groups])
    validations = means([group.validation_accuracy for group in groups])
    rows = [
        {
            "#": ", ".join(str(numbers[str(run.path)]) for run in group.runs),
            "runs": brace_paths([names[numbers[str(run.path)] - 1] for run in group.runs]),
            "method": group.first.recipe.method.name,
            "seeds": str(len(group.runs)),
            "density": f"{group.density:.4f}",
            "validation accuracy": validation.strip(),
            "test accuracy": test.strip(),
        }
        for group, validation, test in zip(groups, validations, tests, strict=True)
    ]
    text = {"#": "key", "runs": "path", "method": ""}
    return Table(caption="Over seeds: mean ± sample standard deviation, in points", rows=rows, text=text)


def settings_apart(groups: Sequence[RunGroup], numbers: Mapping[str, int]) -> Table:
    """Return the settings that are not the same in all runs, without seeds; it has no rows when there are none."""
    rows: list[Mapping[str, Cell]] = []
    for key in groups[0].settings:
        runs: dict[str, list[int]] = {}
        for group in groups:
            runs.setdefault(setting(group.settings[key]), []).extend(numbers[str(run.path)] for run in group.runs)
        values = {value: ", ".join(map(str, sorted(found))) for value, found in runs.items()}
        rows.append({"setting": key, "values, and the runs that have them": values})
    text = {"setting": "key", "values, and the runs that have them": ""}
    return Table(caption="Values by setting", rows=rows, text=text, heading="setting", cards=False)


def layers(run: RunReport) -> Table:
    """Return every masked layer of the checkpoint that a run is judged by."""
    rows: list[Mapping[str, Cell]] = [
        {
            "#": str(index),
            "layer": stem(layer.name),
            "density": f"{layer.density:.4f}",
            "0 to 1": layer.density,
            "active": f"{layer.active:,}",
            "weights": f"{layer.parameters:,}",
            "explored": percent(layer.explored),
            "FLOPs": _UNKNOWN if layer.flops_share is None else f"{layer.flops_share:.1%}",
            "dead inputs": f"{layer.dead_inputs:,}",
            "dead outputs": f"{layer.dead_outputs:,}",
            "shape": " x ".join(map(str, layer.shape)),
        }
        for index, layer in enumerate(run.inspection.layers, 1)
    ]
    text = {"layer": "path", "0 to 1": "", "shape": "key"}
    return Table(caption=f"Layers of {run.summary.checkpoint}", rows=rows, text=text, heading="layer", cards=False)


def settings(run: RunReport) -> Table:
    """Return all settings of a run."""
    rows = []
    for key, value in run.summary.recipe.as_dict().items():
        leaves = {f"{key}.{leaf}": one for leaf, one in value.items()} if isinstance(value, Mapping) else {key: value}
        rows += [{"setting": name, "value": setting(one)} for name, one in leaves.items()]
    text = {"setting": "key", "value": "path"}
    return Table(caption="All settings", rows=rows, text=text, heading="setting", cards=False)


def sessions(runs: Sequence[RunReport]) -> tuple[Table, str]:
    """Return where and when runs were trained, as recorded by them, and a remark on what is missing."""
    recorded = [(number, session) for number, run in enumerate(runs, 1) for session in run.sessions]
    rows = []
    for number, session in recorded[:MOST_SESSIONS]:
        facts = {key: str(value) for key, value in session.facts.items()}
        software = [f"{key} {facts[key]}" for key in ("granet", "torch", "Python") if key in facts]
        own = {key: facts.get(key, _UNKNOWN) for key in _FACTS}
        when = {"#": str(number), "from step": f"{session.step:,}", "begun, UTC": _when(session.time)}
        rows.append({**when, **own, "software": ", ".join(software) or _UNKNOWN})
    silent = [str(number) for number, run in enumerate(runs, 1) if not run.sessions]
    remarks = []
    if silent:
        which = f" of {', '.join(silent)}" if len(runs) > 1 else ""
        remarks.append(f"Where and when training{which} took place was not recorded; granet train records it.")
    if len(recorded) > MOST_SESSIONS:
        remarks.append(f"The first {MOST_SESSIONS} of {len(recorded):,} sessions; --json has all.")
    text = dict.fromkeys(("begun, UTC", *_FACTS, "software"), "")
    return Table(caption="Where and when the runs were trained", rows=rows, text=text), " ".join(remarks)


_FACTS = ("device", "precision", "ranks", "processor", "cores", "system")
"""Facts of a session with a column of their own."""


def files(runs: Sequence[RunReport]) -> Table:
    """Return the dates of files, and settings of the arithmetic."""
    rows = [
        {
            "#": str(number),
            "recipe.toml written": _when(run.begun),
            "newest checkpoint written": _when(run.saved),
            "precision asked for": run.summary.recipe.training.precision,
            "deterministic kernels": "yes" if run.summary.recipe.training.deterministic else "no",
        }
        for number, run in enumerate(runs, 1)
    ]
    return Table(caption="Dates and settings of training", rows=rows, text=dict.fromkeys(list(rows[0])[1:], ""))


def _when(time: str | None) -> str:
    """Return a time as people write it, to the minute."""
    if time is None:
        return _UNKNOWN
    return f"{time[:10]} {time[11:16]}" if _TIME.fullmatch(time) else time


def _share(flops: Mapping[str, float]) -> str:
    return f"{flops['active'] / flops['dense']:.1%}" if flops["dense"] else _UNKNOWN


def _accuracy(value: float | None) -> str:
    return _UNKNOWN if value is None else percent(value)
