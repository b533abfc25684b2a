"""The grid of an experiment: which checkpoints are pruned, how much and how, each as a job with its recipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from granet.allocation import total_budget
from granet.analysis.comparison import IGNORED_SETTINGS
from granet.checkpoint import Checkpoint, load_outline
from granet.errors import CheckpointError, UnknownNameError, UsageError
from granet.masks.mapping import density, shapes
from granet.plasticity.curves import LearningRateDrop
from granet.plasticity.results import REGENERATIONS, Cell, CellKey
from granet.recipe import Recipe
from granet.recipe.learning_rate import learning_rate
from granet.rewinding.plan import RewindRequest, base_recipe, with_rewind
from granet.rewinding.start_state import Scope
from granet.runs import find
from granet.runs.folder import RunFolder
from granet.runs.lineage import ancestors

FOLDER = "plasticity"
"""Folder of the results, in that of the run."""

_LEAVE_ALONE = IGNORED_SETTINGS | {
    *("name", "data.workers", "data.residency"),
    *("training.keep_every", "training.keep_last", "training.save_every"),
}
"""Settings that runs of one curve may differ in, because they do not change what is trained."""


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Settings of all cells of a grid.

    Raises:
        UsageError: a number out of range.
    """

    epochs: int
    """Epochs that a pruned network is trained for."""
    scope: Scope = "global"
    """Whether weights are ranked over all layers, or in each layer."""
    drop_fraction: float = 0.5
    """Share of each layer that ``swap`` drops and grows: what GraNet begins with."""

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= 100_000:
            raise UsageError("out of range", where="--epochs", got=self.epochs, expected="1 to 100000")
        if not 0 < self.drop_fraction <= 1:
            raise UsageError(
                "out of range", where="--drop-fraction", got=self.drop_fraction, expected="above 0 and at most 1"
            )

    def check(self, cell: Cell, folder: Path) -> None:
        """Raise UsageError if ``cell``, found in ``folder``, was measured with other settings."""
        mine: dict[str, Any] = {"epochs": self.epochs, "scope": self.scope}
        if cell.drop_fraction is not None:
            mine["drop_fraction"] = self.drop_fraction
        for name, value in mine.items():
            if getattr(cell, name) != value:
                raise UsageError(
                    "the folder holds results of other settings",
                    where=folder,
                    got=f"--{name.replace('_', '-')} {getattr(cell, name)}",
                    remedy="repeat these, or choose another --out",
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class GridSource:
    """A checkpoint that is pruned."""

    run: Path
    """Its folder."""
    path: Path
    hash: str
    outline: Checkpoint
    """Without any tensors: a grid may have many checkpoints."""
    density: float
    shapes: Mapping[str, tuple[int, ...]]
    """Of the masks."""
    tuned: Recipe
    """The recipe of its fine-tuning with fixed masks, without the rewind of a cell."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.outline.step

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was trained by."""
        return self.outline.recipe

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch of the run that kept this checkpoint."""
        return int(self.outline.progress["steps_per_epoch"])

    @property
    def learning_rate(self) -> float:
        """The rate of the next step; at the end of training, of the last step."""
        last = self.recipe.total_steps(self.steps_per_epoch) - 1
        return learning_rate(self.recipe, min(self.step, last), self.steps_per_epoch)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A cell of the grid: one checkpoint, pruning rate and regeneration."""

    source: GridSource
    rate: float
    regeneration: str
    settings: GridSettings
    recipe: Recipe
    """Of the fine-tuning after pruning."""

    @property
    def key(self) -> CellKey:
        """The key of its ``Cell``."""
        return self.source.hash, self.rate, self.regeneration

    def __str__(self) -> str:
        return f"{self.source.path}, rate {self.rate:g}, regeneration {self.regeneration}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All jobs, and the checkpoints that they prune."""

    sources: tuple[GridSource, ...]
    """Run by run, by step."""
    settings: GridSettings
    jobs: tuple[Job, ...]
    """By checkpoint, rate and regeneration."""
    remarks: tuple[str, ...] = ()
    """Messages for the user."""

    @property
    def runs(self) -> tuple[Path, ...]:
        """The folders, each once."""
        return tuple(dict.fromkeys(source.run for source in self.sources))

    @property
    def drops(self) -> tuple[LearningRateDrop, ...]:
        """The steps at which the schedule of the runs lowers the learning rate."""
        first = self.sources[0]
        recipe, steps = first.recipe, first.steps_per_epoch
        found = []
        for milestone in recipe.schedule.milestones:
            step = milestone.steps(steps)
            before, after = (learning_rate(recipe, max(n, 0), steps) for n in (step - 1, step))
            if after < before and step < recipe.total_steps(steps):
                found.append(LearningRateDrop(step=step, epoch=step / steps, before=before, after=after))
        return tuple(found)


def plan(
    names: Iterable[str],
    settings: GridSettings,
    rates: Sequence[float],
    regenerations: Sequence[str],
    *,
    workers: int | None = None,
) -> Grid:
    """Return the grid for these runs. Nothing is written, and no data are opened.

    Args:
        names: folders of runs, which stand for the checkpoints kept in them, patterns for such, or checkpoints.
        rates: shares to prune.
        regenerations: of ``REGENERATIONS``.
        workers: processes that decode images, when others than in the runs.

    Raises:
        UsageError: rates that cannot be, no checkpoints, a run that is not finished or is being written to, or runs
            that differ in more than their seed.
        CheckpointError: a checkpoint is damaged, of a newer version or not of its run.
    """
    _check_axes(rates, regenerations)
    found, remarks = _sources(names)
    _check_alike(found)
    jobs = []
    for source in found:
        for rate in rates:
            recipe = _recipe(source, settings, rate, workers)
            jobs += [
                Job(source=source, rate=rate, regeneration=kind, settings=settings, recipe=recipe)
                for kind in regenerations
            ]
    return Grid(sources=tuple(found), settings=settings, jobs=tuple(jobs), remarks=tuple(remarks))


def _check_axes(rates: Sequence[float], regenerations: Sequence[str]) -> None:
    for rate in rates:
        if not 0 < rate < 1:
            raise UsageError("not a share to prune", where="--rates", got=rate, expected="above 0 and below 1")
    for kind in regenerations:
        if kind not in REGENERATIONS:
            raise UnknownNameError("regeneration", kind, REGENERATIONS, where="--regeneration")
    for option, values in (("--rates", rates), ("--regeneration", regenerations)):
        if len(set(values)) != len(values) or not values:
            raise UsageError("a value is given twice" if values else "no value is given", where=option)


def _sources(names: Iterable[str]) -> tuple[list[GridSource], list[str]]:
    found: dict[str, GridSource] = {}
    remarks = []
    for name in names:
        if Path(name).is_file():
            source = _source(Path(name))
            found.setdefault(source.hash, source)
            continue
        runs, problems = find.find([name])
        if problems:
            raise UsageError(problems[0].message)
        for run in runs:
            for source in _kept(run):
                found.setdefault(source.hash, source)
    if not found:
        raise UsageError("no run is named", where="RUN")
    runs_by_place: dict[str, Path] = {}  # a folder may have been named in more than one way
    sources = [
        replace(source, run=runs_by_place.setdefault(os.path.realpath(source.run), source.run))
        for source in found.values()
    ]
    order = list(runs_by_place.values())
    counts = [sum(source.run == run for source in sources) for run in order]
    if len(set(counts)) > 1:
        remarks.append(f"not as many checkpoints of every run: {', '.join(map(str, counts))}")
    return sorted(sources, key=lambda source: (order.index(source.run), source.step)), remarks


def _kept(run: Path) -> list[GridSource]:
    """Return the checkpoints that a finished run kept."""
    folder = RunFolder(run)
    with folder.claimed():  # raises if another process is at work in it
        pass
    if not folder.last.exists():
        raise UsageError(
            "the run has no checkpoint yet", where=run, remedy=f"resume it with granet train --resume {run}"
        )
    last = load_outline(folder.last)
    if "steps_per_epoch" in last.progress and "test" not in last.metrics:
        raise UsageError(
            "the run is not finished",
            where=run,
            got=f"step {last.step:,} of {last.recipe.total_steps(last.progress['steps_per_epoch']):,}",
            remedy=f"resume it with granet train --resume {run}, or name single checkpoints of it",
        )
    steps = folder.kept_steps()
    if not steps:
        raise UsageError(
            "the run kept no checkpoints on its way",
            where=run,
            expected="step-N.safetensors",
            remedy="train with --keep-every 10ep, which is --set training.keep_every=10ep, or name checkpoints",
        )
    sources = [_source(folder.kept(step)) for step in steps]
    for step, source in zip(steps, sources, strict=True):
        if source.step != step or source.recipe != last.recipe:
            raise CheckpointError(
                "the checkpoint is of another run than last.safetensors, or not of the step in its name",
                where=source.path,
            )
    return sources


def _source(path: Path) -> GridSource:
    outline = load_outline(path)
    if "steps_per_epoch" not in outline.progress:
        raise UsageError(
            "how these weights were trained is not known, so that there is no learning rate to freeze",
            where=path,
            expected="a checkpoint of granet train or granet rewind",
        )
    return GridSource(
        run=path.parent,
        path=path,
        hash=outline.content_hash,
        outline=replace(outline, weights={}, masks={}, explored={}, buffers={}, optimizer={}, accumulators={}),
        density=density(outline.masks),
        shapes=shapes(outline.masks),
        tuned=base_recipe(RewindRequest(checkpoint=path, mode="finetune"), outline),
    )


def _check_alike(sources: Sequence[GridSource]) -> None:
    """Raise UsageError unless all runs are one training under different seeds."""
    first = sources[0]
    seeds: dict[int, Path] = {}
    for source in sources:
        other = [d for d in source.recipe.differences(first.recipe) if d[0] not in _LEAVE_ALONE]
        if other:
            key, mine, theirs = other[0]
            raise UsageError(
                f"the runs differ in more than their seed: {key}",
                where=source.run,
                got=mine,
                expected=f"{theirs}, as in {first.run}",
                remedy="measure them one by one, each with its own --out",
            )
        if _origin(source.outline) != _origin(first.outline):
            raise UsageError("the runs were trained on other data, or rewound from another training", where=source.run)
        there = seeds.setdefault(source.recipe.seed, source.run)
        if there != source.run:
            raise UsageError(
                "two runs have the same seed; statistics over seeds need different ones",
                where=source.run,
                got=f"seed {source.recipe.seed}, as {there} has",
            )


def _origin(outline: Checkpoint) -> object:
    courses = [note.get("course") for note in ancestors(outline.metrics)]
    return outline.network.classes, outline.network.image_size, outline.progress.get("examples"), courses


def _recipe(source: GridSource, settings: GridSettings, rate: float, workers: int | None) -> Recipe:
    """Return the recipe of the fine-tuning of ``source`` after pruning the share ``rate`` of its active weights."""
    target = (1 - rate) * source.density
    try:
        total_budget(source.shapes, target)
    except UsageError as error:
        raise UsageError(
            f"{error.what}", where=f"--rates, {source.path}", got=f"{rate:g}, {error.got}", expected=error.expected
        ) from error
    base = source.tuned
    if workers is not None:
        base = base.override({"data.workers": workers})
    section = {
        "mode": "finetune",
        "parent": str(source.path.absolute()),
        "parent_hash": source.hash,
        "start": source.step,
        "steps": settings.epochs * source.steps_per_epoch,
        "densities": [target],
        "scope": settings.scope,
        "learning_rate": source.learning_rate,
    }
    return with_rewind(base, section)
