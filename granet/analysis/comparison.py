"""Runs compared: those that differ in their seed alone form a group, with mean and deviation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from granet.analysis.json_values import json_value
from granet.analysis.run_summary import Ancestor, RunSummary, summarise_run
from granet.errors import GranetError
from granet.recipe import Recipe, RewindSection
from granet.runs.find import Problem, find

Run = TypeVar("Run")

IGNORED_SETTINGS = frozenset(
    {"seed", "description", "data.directory", "data.follow_links"}
    | {"rewind.parent", "rewind.parent_hash", "rewind.point", "rewind.point_hash"}
)
"""Settings in which the runs of one group may differ. The images are compared instead of their directory, and the
training of the checkpoints that a run was rewound from instead of their files."""


_KEYS = (*Recipe.settings(), *(f"rewind.{key}" for key in RewindSection.model_fields), "images", "ancestors")
"""What can differ, in the order in which it is shown."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """Mean and sample standard deviation of a figure over several runs."""

    mean: float
    deviation: float | None
    """None for a single run."""
    count: int
    """Number of runs."""

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Statistic | None:
        """Return the statistic of the known values; None when none is known."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(mean=statistics.fmean(known), deviation=deviation, count=len(known))


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Finished runs with the same settings and different seeds; or one run that is not finished."""

    runs: tuple[RunSummary, ...]
    """In the order in which they were named; at least one."""
    settings: Mapping[str, object]
    """What is set differently in another group, by dotted key; None where it is not set. Apart from the settings of a
    recipe, ``images`` distinguishes datasets of one name and ``ancestors`` the origins of rewound runs."""

    @property
    def first(self) -> RunSummary:
        """The first run, for what all have in common."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(run.seed for run in self.runs)

    @property
    def finished(self) -> bool:
        """Whether its runs are finished."""
        return self.first.finished

    def over(self, figure: Callable[[RunSummary], float | None]) -> Statistic | None:
        """Return the statistic of a figure over the runs; None when no run has it."""
        return Statistic.of(figure(run) for run in self.runs)

    @property
    def density(self) -> float:
        """Mean density of the masks."""
        return statistics.fmean(run.inspection.density for run in self.runs)

    @property
    def test_accuracy(self) -> Statistic | None:
        """Test accuracy over the runs, 0 to 1; None if no run was tested."""
        return self.over(lambda run: run.test_accuracy)

    @property
    def validation_accuracy(self) -> Statistic | None:
        """Validation accuracy of the best epoch over the runs, 0 to 1; None if no run has finished an epoch."""
        return self.over(lambda run: run.validation_accuracy)

    @property
    def flops_share(self) -> Statistic | None:
        """Active over dense inference FLOPs, 0 to 1."""
        return self.over(
            lambda run: flops["active"] / flops["dense"] if (flops := run.inspection.flops) and flops["dense"] else None
        )

    @property
    def bytes(self) -> float:
        """Mean size of the checkpoint."""
        return statistics.fmean(run.bytes for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers; each statistic as mean, deviation and count."""
        common = self.first.as_json()
        shared = ("recipe", "method", "mode", "round", "rounds", "model", "data")
        figures = ("inspection.density", "inspection.active", "validation_accuracy", "test_accuracy", "bytes")
        flops = {
            "dense": self.over(lambda run: run.inspection.flops["dense"] if run.inspection.flops else None),
            "active": self.over(lambda run: run.inspection.flops["active"] if run.inspection.flops else None),
        }
        document: dict[str, Any] = json_value(
            {
                "runs": [run.path for run in self.runs],
                "seeds": self.seeds,
                "finished": self.finished,
                **{key: common[key] for key in shared},
                "settings": self.settings,
                "parameters": self.first.inspection.parameters,
                **{key.rpartition(".")[2]: self.over(attrgetter(key)) for key in figures},
                "flops": flops if flops["dense"] else None,
            }
        )
        return document


@dataclass(frozen=True, kw_only=True)
class ComparisonCurve:
    """Groups along one density axis."""

    groups: tuple[RunGroup, ...]
    """By density, from the lowest; at least one."""
    settings: Mapping[str, object]
    """What is set differently in another curve, apart from the density; as that of a group."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that ``granet compare`` shows."""

    runs: tuple[RunSummary, ...]
    """In the order in which they were named."""
    groups: tuple[RunGroup, ...]
    """In the order of their first runs, unless they were sorted."""
    problems: tuple[Problem, ...]
    """Runs that cannot be compared, and remarks on others."""

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "groups": [group.as_json() for group in self.groups],
            "problems": json_value(self.problems),
        }


def compare(names: Iterable[str], *, factory: str | None = None) -> Comparison:
    """Compare the runs that ``names`` stand for, see ``granet.runs.find``.

    A run that cannot be read is a problem in the result, not an error.

    Args:
        names: of folders, or patterns.
        factory: confirms the user's own network, ``package.module:factory``; see ``inspect``.
    """
    return compare_summaries(*read_runs(names, partial(summarise_run, factory=factory)))


def read_runs(names: Iterable[str], read: Callable[[Path], Run]) -> tuple[list[Run], list[Problem]]:
    """Read the runs that ``names`` stand for; one that cannot be read is a problem, not an error."""
    folders, problems = find(names)
    runs: list[Run] = []
    for folder in folders:
        try:
            runs.append(read(folder))
        except GranetError as error:
            problems.append(Problem(path=str(folder), message=str(error)))
        except OSError as error:
            problems.append(Problem(path=str(folder), message=f"{folder}: {error.strerror or error}"))
    return runs, problems


def compare_summaries(runs: Sequence[RunSummary], others: Iterable[Problem] = ()) -> Comparison:
    """Compare runs; the problems ``others`` come first among those found."""
    problems = [*others]
    for run in runs:
        remarks = [*([] if run.finished else [_unfinished(run)]), *run.inspection.notes]
        problems += [Problem(path=str(run.path), message=f"{run.path}: {remark}") for remark in remarks]
    groups, repeated = _grouped(runs)
    problems += [
        Problem(
            path=str(run.path),
            message=f"{run.path}: settings and seed {run.seed} are those of {like.path}; it gets its "
            "own row, since a deviation is over different seeds",
        )
        for run, like in repeated
    ]
    settings = _settings([group[0] for group in groups])
    return Comparison(
        runs=tuple(runs),
        groups=tuple(RunGroup(runs=tuple(group), settings=own) for group, own in zip(groups, settings, strict=True)),
        problems=tuple(problems),
    )


def curves(groups: Iterable[RunGroup]) -> list[ComparisonCurve]:
    """Join groups that differ only in how much is pruned into curves, with one group for each density."""
    found: list[list[RunGroup]] = []
    for group in groups:
        for curve in found:
            repeated = any(other.density == group.density for other in curve)
            if not repeated and not _differences(curve[0].first, group.first, along_density=True):
                curve.append(group)
                break
        else:
            found.append([group])
    settings = _settings([curve[0].first for curve in found], along_density=True)
    return [
        ComparisonCurve(groups=tuple(sorted(curve, key=lambda group: group.density)), settings=own)
        for curve, own in zip(found, settings, strict=True)
    ]


def _unfinished(run: RunSummary) -> str:
    total = run.inspection.total_steps
    end = "" if total is None else f" of {total:,}"
    return f"not finished, and so not tested: it is at step {run.step:,}{end}"


def _grouped(runs: Iterable[RunSummary]) -> tuple[list[list[RunSummary]], list[tuple[RunSummary, RunSummary]]]:
    """Return the groups, and each run that another one with the same seed keeps out of its group."""
    groups: list[list[RunSummary]] = []
    repeated: list[tuple[RunSummary, RunSummary]] = []
    for run in runs:
        alike = [group for group in groups if run.finished and group[0].finished and not _differences(group[0], run)]
        home = next((group for group in alike if run.seed not in [other.seed for other in group]), None)
        if home is not None:
            home.append(run)
            continue
        repeated += [(run, other) for group in alike[:1] for other in group if other.seed == run.seed]
        groups.append([run])
    return groups, repeated


def _settings(runs: Sequence[RunSummary], *, along_density: bool = False) -> list[dict[str, object]]:
    """Return the values of each run for the settings that are not the same in all."""
    keys = {key for run in runs for key in _differences(runs[0], run, along_density=along_density)}
    ordered = [*(key for key in _KEYS if key in keys), *sorted(keys - {*_KEYS})]  # those of methods of users last
    return [{key: _value(run, key) for key in ordered} for run in runs]


def _value(run: RunSummary, key: str) -> object:
    if key == "images":
        return str(run.images)
    if key == "ancestors":
        return ", ".join(map(str, run.ancestors)) or None
    section, _, leaf = key.rpartition(".")
    settings = run.recipe.as_dict()
    return (settings.get(section, {}) if section else settings).get(leaf)


def _differences(one: RunSummary, other: RunSummary, *, along_density: bool = False) -> set[str]:
    """Return the dotted keys in which two runs differ apart from their seeds.

    Where a fine-tuning starts is where the training before it ended, so it is not a setting of its own. With
    ``along_density`` the density and the round that reaches it do not count either.
    """
    ignored = set(IGNORED_SETTINGS)
    if one.mode == other.mode == "finetune":
        ignored.add("rewind.start")
    if along_density:
        ignored |= {"method.density", "rewind.round"}
        if one.rounds == other.rounds == 1:
            ignored.add("rewind.densities")
    found = {
        key
        for key, mine, theirs in one.recipe.differences(other.recipe)
        if key not in ignored and not (mine in (None, []) and theirs in (None, []))  # an empty list sets nothing
    }
    if one.images != other.images:
        found.add("images")
    before = _ancestors_before_rewind if along_density else lambda run: run.ancestors
    if before(one) != before(other):
        found.add("ancestors")
    return found


def _ancestors_before_rewind(run: RunSummary) -> tuple[Ancestor, ...]:
    """Return the ancestors without earlier rounds of the same rewind."""
    return run.ancestors[: max(len(run.ancestors) - ((run.round or 1) - 1), 0)]
