"""The report on several runs, as data: what ``granet report`` draws."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from granet.analysis.comparison import RunGroup, compare_summaries, read_runs
from granet.analysis.json_values import json_value
from granet.analysis.run_report import RunReport, read
from granet.runs.find import Problem


@dataclass(frozen=True, kw_only=True)
class RunsReport:
    """All that ``granet report`` shows."""

    runs: tuple[RunReport, ...]
    """In the order in which they were named."""
    groups: tuple[RunGroup, ...]
    """The same runs; those that differ in their seed alone form a group."""
    problems: tuple[Problem, ...]
    """Runs that were named and are not shown, with the reasons."""
    remarks: tuple[Problem, ...]
    """Remarks on runs that are shown."""
    software: Mapping[str, str]
    """Versions of the software that made the report, by name."""

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "groups": [group.as_json() for group in self.groups],
            "problems": json_value(self.problems),
            "remarks": json_value(self.remarks),
            "software": json_value(self.software),
        }


def report(names: Iterable[str], *, factory: str | None = None) -> RunsReport:
    """Report on the runs that ``names`` stand for, see ``granet.runs.find``.

    A run that cannot be read completely is a problem in the result, not an error.

    Args:
        names: of folders, or patterns.
        factory: confirms the user's own network, ``package.module:factory``; see ``inspect``.
    """
    runs, problems = read_runs(names, partial(read, factory=factory))
    comparison = compare_summaries([run.summary for run in runs])
    return RunsReport(
        runs=tuple(runs),
        groups=comparison.groups,
        problems=tuple(problems),
        remarks=comparison.problems,
        software=_software(),
    )


def _software() -> dict[str, str]:
    """Return the versions of the software that reads the runs."""
    return {
        "granet": version("granet"),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "NumPy": np.__version__,
    }
