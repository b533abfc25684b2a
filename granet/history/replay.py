"""The masks of a run at any of its updates, replayed from its history without training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from granet import history
from granet.checkpoint import Checkpoint, load_outline
from granet.errors import CheckpointError, GranetError, UsageError
from granet.files import mapped
from granet.history import FlatMasks, Log, changes, flat
from granet.history import format as log
from granet.masks import mapping
from granet.masks.codec import Mask
from granet.recipe import build_method
from granet.runs.find import BEST, HISTORY, LAST, REWIND, holds_run


@dataclass(frozen=True, eq=False)
class Moment:
    """The masks at an update: ``before`` it and ``after`` it, flat, in the order of the network."""

    step: int
    before: FlatMasks
    after: FlatMasks


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Whether the history agrees with one of the other files of the run.

    Attributes:
        what: the file, or what in it.
        fault: how they differ; None when they do not.
    """

    what: str
    fault: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """The history of one run, up to its newest checkpoint.

    Attributes:
        folder: of the run.
        last: its newest checkpoint, without values; what lies past it in the history may happen once more.
        log: the file.
        initial: the masks that the history begins with, flat.
        notes: what its reader should know.
    """

    folder: Path
    last: Checkpoint
    log: Log
    initial: FlatMasks
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, folder: Path) -> Replay:
        """The history of the run in ``folder``.

        Raises:
            UsageError: there is no run, no checkpoint of it yet, or no history of it.
            CheckpointError: a file is damaged, of a newer version, or not of this run.
        """
        last = _newest(folder)
        path = folder / HISTORY
        if not path.exists():
            raise UsageError(
                "the run has no history",
                where=folder,
                got=f"no {HISTORY}",
                remedy="a run of an older granet keeps one from where it is resumed",
            )
        found = log.parse(mapped.read(path).tobytes(), str(path))
        shapes = {name: tuple(mask.shape) for name, mask in last.masks.items()}
        if found.beginning.shapes != shapes:
            raise CheckpointError("the history is of another network than the checkpoint", where=path)
        initial = _initial(found.beginning, last, path)
        if changes.check_of(initial) != found.beginning.check:
            raise CheckpointError(
                "the masks that the recipe draws are not those that the history begins with",
                where=path,
                remedy="use the version of torch that the run was trained with",
            )
        known, notes = _up_to(found, last, path)
        return cls(folder=folder, last=last, log=known, initial=initial, notes=notes)

    @property
    def begins_at(self) -> int:
        """The step at which the history begins: that of the run, but for one that an older granet began."""
        return self.log.beginning.step

    @property
    def whole(self) -> bool:
        """Whether the history begins where the run did."""
        rewind = self.last.recipe.rewind
        return self.begins_at == (0 if rewind is None else rewind.start)

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end and tested."""
        return "test" in self.last.metrics

    def moments(self) -> Iterator[Moment]:
        """The masks at every update, in order; they are not to be written to.

        Raises:
            CheckpointError: an update in the file is damaged.
        """
        present = self.initial
        for entry in self.log.entries:
            try:
                after = changes.decode(entry.change, present)
            except ValueError as error:
                where = self.folder / HISTORY
                raise CheckpointError(
                    "the history is damaged", where=where, got=f"at step {entry.step}: {error}"
                ) from None
            yield Moment(entry.step, present, after)
            present = after

    def masks_at(self, step: int) -> dict[str, Tensor]:
        """The masks after ``step`` optimizer steps: bool, in their shapes.

        Raises:
            UsageError: before the history begins, or past the newest checkpoint.
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
        return {
            name: torch.from_numpy(mask.copy()).view(self.log.beginning.shapes[name]) for name, mask in present.items()
        }

    def verify(self) -> list[Finding]:
        """Replays everything and compares it with the metrics of the run and the masks of its checkpoints.

        Every update carries a checksum of the masks that it led to, without which it is not replayed at all.

        Raises:
            CheckpointError: as ``moments``, or a checkpoint is damaged.
        """
        there = sorted(self._checkpoints(), key=lambda found: found[1].step)
        findings: list[Finding] = []
        waiting = iter([*there, (None, None)])
        path, checkpoint = next(waiting)
        explored = {name: mask.copy() for name, mask in self.initial.items()}
        present, faults = self.initial, []
        for moment, noted in zip(self.moments(), self._noted(), strict=True):
            while checkpoint is not None and checkpoint.step < moment.step:
                findings.append(self._compared(path, checkpoint, present, explored))
                path, checkpoint = next(waiting)
            present = moment.after
            for name, mask in present.items():
                explored[name] |= mask
            faults += self._disagreements(noted, present, explored)
        while checkpoint is not None:
            findings.append(self._compared(path, checkpoint, present, explored))
            path, checkpoint = next(waiting)
        told = f"{len(self.log.entries):,} updates and what the run noted of them"
        return [Finding(what=told, fault=faults[0] if faults else None), *findings]

    def _checkpoints(self) -> Iterator[tuple[Path, Checkpoint]]:
        """The checkpoints of this run that the history reaches."""
        yield self.folder / LAST, self.last
        for path in (self.folder / BEST, *sorted(self.folder.glob("step-*.safetensors"))):
            if path.exists():
                found = load_outline(path)
                if self.begins_at <= found.step <= self.last.step:
                    yield path, found

    def _noted(self) -> list[Mapping[str, Any]]:
        return [entry for entry in updates_of(self.last) if entry["step"] > self.begins_at]

    def _disagreements(self, noted: Mapping[str, Any], present: FlatMasks, explored: FlatMasks) -> list[str]:
        pairs = [("density", share(present))]
        if self.whole:
            pairs.append(("exploration_rate", share(explored)))
        return [
            f"{key} at step {noted['step']} is {mine}, and was noted as {noted.get(key)}"
            for key, mine in pairs
            if noted.get(key) != mine
        ]

    def _compared(self, path: Path | None, checkpoint: Checkpoint, present: FlatMasks, explored: FlatMasks) -> Finding:
        assert path is not None  # noqa: S101  it comes with its checkpoint
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


def share(flat_masks: FlatMasks) -> float:
    """Active over all weights, as ``granet.masks.mapping.density`` has it; 1.0 when there are no masks."""
    total = sum(mask.size for mask in flat_masks.values())
    return sum(int(np.count_nonzero(mask)) for mask in flat_masks.values()) / total if total else 1.0


def updates_of(checkpoint: Checkpoint) -> list[Mapping[str, Any]]:
    """What a run noted of its updates; whatever is not such a note is left out."""
    noted = checkpoint.metrics.get("updates")
    entries = noted if isinstance(noted, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and type(entry.get("step")) is int]


def _newest(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        there = folder.exists()
        raise UsageError(
            "not a folder" if there else "nothing of this name is there", where=folder, expected="the folder of a run"
        )
    if not holds_run(folder):
        rounds = (folder / REWIND).is_file()
        raise UsageError(
            "this is a rewind in several rounds" if rounds else "no run here",
            where=folder,
            remedy=f"name one of its rounds, such as {folder / 'round-01'}" if rounds else None,
        )
    if not (folder / LAST).exists():
        raise UsageError(
            "the run has no checkpoint yet", where=folder, remedy="wait for the first one, or go on with it"
        )
    last = load_outline(folder / LAST)
    if type(last.progress.get("steps_per_epoch")) is not int or type(last.progress.get("total_steps")) is not int:
        raise CheckpointError("these are weights, not the state of a run", where=folder / LAST)
    return last


def _initial(beginning: history.Beginning, last: Checkpoint, path: Path) -> dict[str, Mask]:
    """The masks that the history begins with; their shapes are those of the checkpoint."""
    try:
        if beginning.stored is not None:
            return beginning.masks()
        method = build_method(last.recipe, last.progress["steps_per_epoch"])
        budgets = method.budgets(beginning.shapes)
        full = {n: np.ones(budgets[n], np.bool_) for n, s in beginning.shapes.items() if budgets[n] == math.prod(s)}
        sparse = {name: shape for name, shape in beginning.shapes.items() if name not in full}
        drawn = flat(mapping.random(sparse, budgets, seed=last.recipe.seed))
        return {name: full[name] if name in full else drawn[name] for name in beginning.shapes}
    except (ValueError, GranetError) as error:
        raise CheckpointError("the beginning of the history is damaged", where=path, got=error) from error


def _up_to(found: Log, last: Checkpoint, path: Path) -> tuple[Log, tuple[str, ...]]:
    """The log up to the checkpoint, and notes on what is missing of it.

    Raises:
        CheckpointError: it does not have the updates that the checkpoint has seen.
    """
    entries = tuple(entry for entry in found.entries if entry.step <= last.step)
    expected = [update["step"] for update in updates_of(last) if update["step"] > found.beginning.step]
    if found.beginning.step > last.step or [entry.step for entry in entries] != expected:
        raise CheckpointError(
            "the history does not have the updates that the checkpoint has seen",
            where=path,
            got=f"{len(entries)} up to step {last.step}, from step {found.beginning.step} on",
            expected=len(expected),
        )
    notes = []
    total = last.progress["total_steps"]
    if "test" not in last.metrics:
        notes.append(f"the run is not finished: its newest checkpoint stands at step {last.step:,} of {total:,}")
    past = len(found.entries) - len(entries)
    if past or found.torn:
        notes.append(
            f"what lies past that checkpoint is not shown: {past} update{'s' * (past != 1)}"
            + (", and one that is being written or was cut short" if found.torn else "")
        )
    rewind = last.recipe.rewind
    start = 0 if rewind is None else rewind.start
    if found.beginning.step > start:
        notes.append(
            f"the history begins at step {found.beginning.step:,}: an older granet trained until then, and kept none"
        )
    known = Log(
        beginning=found.beginning,
        entries=entries,
        start=found.start,
        size=entries[-1].end if entries else found.start,
        chain=found.chain[: len(entries) + 1],
    )
    return known, tuple(notes)
