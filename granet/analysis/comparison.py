"""Runs side by side: those that differ in their seed alone become one, with mean and deviation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from granet.analysis.run_summary import Ancestor, RunSummary, read
from granet.errors import GranetError
from granet.recipe import Recipe, RewindSection
from granet.runs.find import Problem, find

ASIDE = frozenset(
    {"seed", "description", "data.directory"}
    | {"rewind.parent", "rewind.parent_hash", "rewind.point", "rewind.point_hash"}
)
"""Settings in which the runs of one group may differ. What the data are like is compared instead of where they lie,
and how the checkpoints came to be that a run was rewound from instead of which they are."""


_KEYS = (*Recipe.settings(), *(f"rewind.{key}" for key in RewindSection.model_fields), "images", "ancestors")
"""Whatever can differ, in the order in which it is told."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A figure over the runs of a group."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None for a single run."""
    count: int
    """Over how many runs."""

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Statistic | None:
        """Of those that are known; None when none is."""
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
    """What is set differently in another group, by dotted key; None where it is not set. Besides the settings of a
    recipe, ``images`` tells the data of one name apart and ``ancestors`` the origins of rewound runs."""

    @property
    def first(self) -> RunSummary:
        """One of them, for all that they have in common."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each run."""
        return tuple(run.seed for run in self.runs)

    @property
    def finished(self) -> bool:
        """Whether it is of finished runs."""
        return self.first.finished

    def over(self, figure: Callable[[RunSummary], float | None]) -> Statistic | None:
        """A figure over the runs; None when it is known of none."""
        return Statistic.of(figure(run) for run in self.runs)

    @property
    def density(self) -> float:
        """Of the masks, on the mean."""
        return statistics.fmean(run.density for run in self.runs)

    @property
    def test_accuracy(self) -> Statistic | None:
        """0 to 1."""
        return self.over(lambda run: run.test_accuracy)

    @property
    def validation_accuracy(self) -> Statistic | None:
        """0 to 1, of the epoch that is best by it."""
        return self.over(lambda run: run.validation_accuracy)

    @property
    def flops_share(self) -> Statistic | None:
        """Active over dense inference FLOPs, 0 to 1."""
        return self.over(
            lambda run: run.flops["active"] / run.flops["dense"] if run.flops and run.flops["dense"] else None
        )

    @property
    def bytes(self) -> float:
        """Size of the checkpoint, on the mean."""
        return statistics.fmean(run.bytes for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers; each statistic as mean, deviation and count."""
        run, common = self.first, self.first.as_json()

        def over(figure: Callable[[RunSummary], float | None]) -> dict[str, Any] | None:
            statistic = self.over(figure)
            return None if statistic is None else asdict(statistic)

        def costs(kind: str) -> dict[str, Any] | None:
            return over(lambda run: None if run.flops is None else run.flops[kind])

        return {
            "runs": [str(run.path) for run in self.runs],
            "seeds": list(self.seeds),
            "finished": self.finished,
            **{key: common[key] for key in ("recipe", "method", "mode", "round", "rounds", "model", "data")},
            "settings": dict(self.settings),
            "density": over(lambda run: run.density),
            "active": over(lambda run: run.active),
            "parameters": run.parameters,
            "validation_accuracy": over(lambda run: run.validation_accuracy),
            "test_accuracy": over(lambda run: run.test_accuracy),
            "flops": {kind: costs(kind) for kind in ("dense", "active")} if costs("dense") else None,
            "bytes": over(lambda run: run.bytes),
        }


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
    """What was named and is no run, is damaged, or deserves a remark."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "groups": [group.as_json() for group in self.groups],
            "problems": [asdict(problem) for problem in self.problems],
        }


def compare(names: Iterable[str], *, factory: str | None = None) -> Comparison:
    """The runs that ``names`` stand for, see ``run_folders.find``, side by side.

    A run that cannot be read is a problem in the result, not an error.

    Args:
        names: of folders, or patterns.
        factory: confirms the user's own network, ``package.module:factory``; see ``inspect``.
    """
    folders, problems = find(names)
    runs: list[RunSummary] = []
    for folder in folders:
        try:
            run = read(folder, factory=factory)
        except (GranetError, OSError) as error:
            problems.append(Problem(path=str(folder), message=str(error)))
            continue
        runs.append(run)
    return compare_outcomes(runs, problems)


def compare_outcomes(runs: Sequence[RunSummary], others: Iterable[Problem] = ()) -> Comparison:
    """These runs side by side; what was found about ``others`` comes first among the problems."""
    problems = [*others]
    for run in runs:
        remarks = [*([] if run.finished else [_unfinished(run)]), *run.notes]
        problems += [Problem(path=str(run.path), message=f"{run.path}: {remark}") for remark in remarks]
    groups, repeated = _grouped(runs)
    problems += [
        Problem(
            path=str(run.path),
            message=f"{run.path}: settings and seed {run.seed} are those of {like.path}; not the same row, "
            "since a deviation is over different seeds",
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
    """Groups that differ in nothing but how much is pruned belong to one curve, one for each density."""
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
    end = "" if run.total_steps is None else f" of {run.total_steps:,}"
    return f"not finished, and so not tested: it stands at step {run.step:,}{end}"


def _grouped(runs: Iterable[RunSummary]) -> tuple[list[list[RunSummary]], list[tuple[RunSummary, RunSummary]]]:
    """The groups, and each run that would have been in one but for another that has its seed."""
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
    """For each run its values of the settings that are not the same in all."""
    keys = {key for run in runs for key in _differences(runs[0], run, along_density=along_density)}
    ordered = [key for key in _KEYS if key in keys]
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
    """The dotted keys of what is different about two runs apart from their seeds.

    Where a fine-tuning starts is where the training before it ended, so it is not a setting of its own. With
    ``along_density`` the density and the round that reaches it do not count either.
    """
    aside = set(ASIDE)
    if one.mode == other.mode == "finetune":
        aside.add("rewind.start")
    if along_density:
        aside |= {"method.density", "rewind.round"}
        if one.rounds == other.rounds == 1:
            aside.add("rewind.densities")
    found = {
        key
        for key, mine, theirs in one.recipe.differences(other.recipe)
        if key not in aside and not (mine in (None, []) and theirs in (None, []))  # an empty list sets nothing
    }
    if one.images != other.images:
        found.add("images")
    before = _before_rounds if along_density else lambda run: run.ancestors
    if before(one) != before(other):
        found.add("ancestors")
    return found


def _before_rounds(run: RunSummary) -> tuple[Ancestor, ...]:
    """The ancestors without the rounds before this one, which are of the same rewind."""
    return run.ancestors[: max(len(run.ancestors) - ((run.round or 1) - 1), 0)]
