"""Everything that is known of runs, as data: what ``granet report`` draws. Each is told by ``run_report``, whole or not
at all."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from granet.analysis.comparison import RunGroup, compare_summaries
from granet.analysis.run_report import RunReport, read
from granet.errors import GranetError
from granet.runs.find import Problem, find


@dataclass(frozen=True, kw_only=True)
class RunsReport:
    """All that ``granet report`` shows."""

    runs: tuple[RunReport, ...]
    """In the order in which they were named."""
    groups: tuple[RunGroup, ...]
    """The same, those that differ in their seed alone together."""
    problems: tuple[Problem, ...]
    """What was named and is not shown, each with its reason."""
    remarks: tuple[Problem, ...]
    """What deserves a remark about runs that are shown."""
    software: Mapping[str, str]
    """Versions that the report was made with, by name."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "groups": [group.as_json() for group in self.groups],
            "problems": [asdict(problem) for problem in self.problems],
            "remarks": [asdict(remark) for remark in self.remarks],
            "software": dict(self.software),
        }


def report(names: Iterable[str], *, factory: str | None = None) -> RunsReport:
    """All about the runs that ``names`` stand for, see ``run_folders.find``.

    A run that cannot be told whole is a problem in the result, not an error.

    Args:
        names: of folders, or patterns.
        factory: confirms the user's own network, ``package.module:factory``; see ``inspect``.
    """
    folders, problems = find(names)
    runs: list[RunReport] = []
    for folder in folders:
        try:
            runs.append(read(folder, factory=factory))
        except GranetError as error:
            problems.append(Problem(path=str(folder), message=str(error)))
        except OSError as error:
            problems.append(Problem(path=str(folder), message=f"{folder}: {error.strerror or error}"))
    side_by_side = compare_summaries([run.outcome for run in runs])
    return RunsReport(
        runs=tuple(runs),
        groups=side_by_side.groups,
        problems=tuple(problems),
        remarks=side_by_side.problems,
        software=_software(),
    )


def _software() -> dict[str, str]:
    """The versions of what reads and draws."""
    return {
        "granet": version("granet"),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "NumPy": np.__version__,
    }
