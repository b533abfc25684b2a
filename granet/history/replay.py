"""Replay of a run's masks from its history, without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from granet.checkpoint import Checkpoint, load_outline
from granet.errors import CheckpointError, GranetError, UsageError, counted
from granet.files import mapped
from granet.history import format as log
from granet.history.changes import FlatMasks, checksum, flat
from granet.history.format import Log
from granet.masks import mapping
from granet.masks.codec import Mask
from granet.methods.registry import method_class
from granet.methods.update import draw_masks
from granet.recipe import Recipe, build_method
from granet.runs.folder import RunFolder


@dataclass(frozen=True, eq=False)
class Moment:
    """The flat masks ``before`` and ``after`` an update, in the order of the network."""

    step: int
    before: FlatMasks
    after: FlatMasks


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of comparing the history with another file of the run.

    Attributes:
        what: the file, or the part of it.
        fault: how they differ; None when they agree.
    """

    what: str
    fault: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """The history of one run, up to its newest checkpoint.

    Attributes:
        folder: of the run.
        last: its newest checkpoint, without values. A resumed run repeats what lies past it in the history.
        log: the file.
        initial: the flat masks at the beginning.
        notes: for the reader, such as that the run is not finished.
    """

    folder: Path
    last: Checkpoint
    log: Log
    initial: FlatMasks
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, folder: Path) -> Replay:
        """Open the history of the run in ``folder``.

        Raises:
            UsageError: there is no run, no checkpoint of it yet, or no history of it.
            CheckpointError: a file is damaged, of a newer version, or not of this run.
        """
        last, path = RunFolder(folder).newest(), RunFolder(folder).history
        if not path.exists():
            raise UsageError(
                "the run has no history",
                where=folder,
                got=f"no {path.name}",
                remedy="a run of an older granet keeps one from where it is resumed",
            )
        found = log.parse(mapped.read(path).tobytes(), str(path))
        if found.shapes != mapping.shapes(last.masks):
            raise CheckpointError("the history is of another network than the checkpoint", where=path)
        initial = initial_masks(found, last.recipe, last.progress["steps_per_epoch"], path)
        known = known_part(found, last.step, last.metrics, path)
        return cls(folder=folder, last=last, log=known, initial=initial, notes=_notes(found, known, last))

    @property
    def begins_at(self) -> int:
        """The step at which the history begins: that of the run, unless an older granet began the run."""
        return self.log.start.step

    @property
    def whole(self) -> bool:
        """Whether the history begins where the run did."""
        return self.begins_at == _first_step(self.last.recipe)

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end and tested."""
        return "test" in self.last.metrics

    def moments(self) -> Iterator[Moment]:
        """Yield the masks at every update, in order. Do not write to them.

        Raises:
            CheckpointError: an update in the file is damaged.
        """
        return moments(self.log, self.initial, RunFolder(self.folder).history)

    def masks_at(self, step: int) -> dict[str, Tensor]:
        """Return the masks after ``step`` optimizer steps: bool, in the shapes of the weights.

        Raises:
            UsageError: ``step`` is before the history begins, or past the newest checkpoint.
            CheckpointError: as ``moments``.
        """
        if not self.begins_at <= step <= self.last.step:
            raise UsageError(
                "the history does not know this step",
                where=self.folder,
                got=step,
                expected=f"{self.begins_at} to {self.last.step}",
            )
        present = self.initial
        for moment in self.moments():
            if moment.step > step:
                break
            present = moment.after
        return {name: torch.from_numpy(mask.copy()).view(self.log.shapes[name]) for name, mask in present.items()}

    def verify(self) -> list[Finding]:
        """Replay everything, and compare it with the metrics of the run and the masks of its checkpoints.

        Every update carries a checksum of the resulting masks, so replaying is a check of its own.

        Raises:
            CheckpointError: as ``moments``, or a checkpoint is damaged.
        """
        checkpoints = sorted(self._checkpoints(), key=lambda found: found[1].step)
        findings: list[Finding] = []
        faults: list[str] = []
        present = self.initial
        explored = {name: mask.copy() for name, mask in self.initial.items()}
        reported = [report for report in updates_of(self.last.metrics) if report["step"] > self.begins_at]
        for moment, report in zip(self.moments(), reported, strict=True):
            while checkpoints and checkpoints[0][1].step < moment.step:
                findings.append(self._compared(*checkpoints.pop(0), present, explored))
            present = moment.after
            for name, mask in present.items():
                explored[name] |= mask
            faults += self._disagreements(report, present, explored)
        findings += [self._compared(path, checkpoint, present, explored) for path, checkpoint in checkpoints]
        what = f"{len(self.log.entries):,} updates and what the run noted of them"
        return [Finding(what=what, fault=faults[0] if faults else None), *findings]

    def _checkpoints(self) -> Iterator[tuple[Path, Checkpoint]]:
        """Yield the checkpoints of this run that the history covers."""
        files = RunFolder(self.folder)
        yield files.last, self.last
        for path in (files.best, *map(files.kept, files.kept_steps())):
            if path.exists():
                found = load_outline(path)
                if self.begins_at <= found.step <= self.last.step:
                    yield path, found

    def _disagreements(self, noted: Mapping[str, Any], present: FlatMasks, explored: FlatMasks) -> list[str]:
        replayed = {"density": _density(present)}
        if self.whole:
            replayed["exploration_rate"] = _density(explored)
        return [
            f"{key} at step {noted['step']} is {value}, and was noted as {noted.get(key)}"
            for key, value in replayed.items()
            if noted.get(key) != value
        ]

    def _compared(self, path: Path, checkpoint: Checkpoint, present: FlatMasks, explored: FlatMasks) -> Finding:
        pairs = [("mask", flat(checkpoint.masks), present)]
        if self.whole:
            pairs.append(("explored set", flat(checkpoint.explored), explored))
        faults = [
            f"the {what} of {name} is another one"
            for what, theirs, mine in pairs
            for name in mine
            if name not in theirs or not np.array_equal(theirs[name], mine[name])
        ]
        return Finding(what=f"{path.name}, step {checkpoint.step:,}", fault=faults[0] if faults else None)


def initial_masks(found: Log, recipe: Recipe, steps_per_epoch: int, path: Path) -> dict[str, Mask]:
    """Return the flat masks at the beginning of a history, whose shapes are known to be those of a checkpoint.

    Args:
        found: the history.
        recipe: of the run, from which masks that are not stored are drawn again.
        steps_per_epoch: of the run.
        path: of the history, for messages.

    Raises:
        CheckpointError: the stored masks are damaged, or the recipe draws different ones.
        UsageError: masks that only a method of the user's can draw, which was not confirmed.
    """
    if not found.stored:
        method_class(recipe.method.name)  # a method of the user's that was not confirmed is no damage
    try:
        if found.stored:
            initial = found.stored_masks()
        else:
            method = build_method(recipe, steps_per_epoch)
            initial = flat(draw_masks(method, found.shapes, seed=recipe.seed))
    except (ValueError, GranetError) as error:
        raise CheckpointError("the beginning of the history is damaged", where=path, got=error) from error
    if checksum(initial) != found.check:
        raise CheckpointError(
            "the masks that the recipe draws are not those that the history begins with",
            where=path,
            remedy="use the version of torch that the run was trained with, or move the file away to resume without it",
        )
    return initial


def known_part(found: Log, step: int, metrics: Mapping[str, Any], path: Path, *, remedy: str | None = None) -> Log:
    """Return a history up to the ``step`` of a checkpoint with these ``metrics``.

    Raises:
        CheckpointError: it does not have exactly the updates that the checkpoint has seen.
    """
    known = found.until(step)
    expected = [update["step"] for update in updates_of(metrics) if update["step"] > found.start.step]
    if found.start.step > step or [entry.step for entry in known.entries] != expected:
        raise CheckpointError(
            "the history does not have the updates that the checkpoint has seen",
            where=path,
            got=f"{len(known.entries)} up to step {step}, from step {found.start.step} on",
            expected=len(expected),
            remedy=remedy,
        )
    return known


def moments(found: Log, initial: FlatMasks, path: Path) -> Iterator[Moment]:
    """Yield the masks at every update of a history; see ``Replay.moments``."""
    present = initial
    for entry in found.entries:
        try:
            after = found.decode(entry.change, present)
        except ValueError as error:
            raise CheckpointError("the history is damaged", where=path, got=f"at step {entry.step}: {error}") from None
        yield Moment(entry.step, present, after)
        present = after


def updates_of(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a run noted of its updates, without anything that is not such a note."""
    noted = metrics.get("updates")
    entries = noted if isinstance(noted, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and type(entry.get("step")) is int]


def _density(masks: FlatMasks) -> float:
    """Return active over all weights, as ``granet.masks.mapping.density`` does; 1.0 without masks."""
    total = sum(mask.size for mask in masks.values())
    return sum(int(np.count_nonzero(mask)) for mask in masks.values()) / total if total else 1.0


def _first_step(recipe: Recipe) -> int:
    return 0 if recipe.rewind is None else recipe.rewind.start


def _notes(found: Log, known: Log, last: Checkpoint) -> tuple[str, ...]:
    notes = []
    if "test" not in last.metrics:
        total = last.progress["total_steps"]
        notes.append(f"the run is not finished: its newest checkpoint stands at step {last.step:,} of {total:,}")
    later = len(found.entries) - len(known.entries)
    if later or found.incomplete_bytes:
        notes.append(
            f"what lies past that checkpoint is not shown: {counted(later, 'update')}"
            + (", and one that is being written or was cut short" if found.incomplete_bytes else "")
        )
    if found.start.step > _first_step(last.recipe):
        notes.append(
            f"the history begins at step {found.start.step:,}: an older granet trained until then, and kept none"
        )
    return tuple(notes)
