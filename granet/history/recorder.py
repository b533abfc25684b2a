"""Recording of the history while a run trains: a frame for every update, appended to the file.

A thread encodes the frame while training continues, one at a time; the masks of an update never change.

Every update that a checkpoint has seen is on disk before the checkpoint is. So a resumed run finds all updates up to
its step in the file, cuts off what lies past it, which is going to happen again, and appends what an undisturbed run
would have appended.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from granet.errors import CheckpointError
from granet.files import atomic, mapped
from granet.files.atomic import file_errors
from granet.history import format as log
from granet.history.changes import flat
from granet.history.replay import initial_masks, known_part, moments
from granet.masks import mapping
from granet.masks.mapping import Masks
from granet.recipe import Recipe
from granet.topology import TopologyUpdate

_REMEDY = "move it away: the run goes on without it, and its history then begins at this step"
_NOT_WRITTEN = "the history could not be written"


class HistoryRecorder:
    """The history file of one run, open for appending."""

    def __init__(self, path: Path, step: int, crc: int) -> None:
        self.path = path
        self._step, self._crc = step, crc
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="granet-history")
        self._pending: Future[None] | None = None

    @classmethod
    def begin(cls, path: Path, step: int, masks: Masks, *, drawn: bool) -> HistoryRecorder:
        """Write a new file, in place of any other.

        Args:
            path: of the file.
            step: where the history begins.
            masks: at that step.
            drawn: whether they are those that the recipe draws, and need not be stored.

        Raises:
            FileError: the file cannot be written.
        """
        data, crc = log.begin(step, mapping.shapes(masks), flat(masks), stored=not drawn)
        atomic.write(path, data)
        return cls(path, step, crc)

    @classmethod
    def resume(
        cls, path: Path, step: int, masks: Masks, metrics: Mapping[str, Any], recipe: Recipe, steps_per_epoch: int
    ) -> HistoryRecorder:
        """Open the file of a run that is resumed at ``step``, and cut off what lies past it.

        Where an older granet kept no history, it begins here. A file of format 1 is replaced by the same history in
        the present format, in one step.

        Raises:
            CheckpointError: the file is damaged or not of this run.
            FileError: it cannot be read or written.
        """
        if not os.path.lexists(path):
            return cls.begin(path, step, masks, drawn=False)
        found = log.parse(mapped.read(path).tobytes(), str(path))
        if list(found.shapes.items()) != list(mapping.shapes(masks).items()):
            raise CheckpointError("the history is of another network", where=path, remedy=_REMEDY)
        known = known_part(found, step, metrics, path, remedy=_REMEDY)
        if known.version != log.VERSION[0]:
            data, crc = _converted(known, recipe, steps_per_epoch, path)
            atomic.write(path, data)
            return cls(path, known.last.step, crc)
        if known.size < found.size:
            with file_errors(path, _NOT_WRITTEN):
                os.truncate(path, known.size)
        return cls(path, known.last.step, known.last.crc)

    def add(self, update: TopologyUpdate) -> None:
        """Append an update in the background; waits for the one before.

        Raises:
            FileError: the one before could not be written.
        """
        self._wait()
        self._pending = self._worker.submit(self._write, update.step, update.before, update.masks)

    def sync(self) -> None:
        """Return when everything added is on disk.

        Raises:
            FileError: it cannot be written.
        """
        self._wait()
        with file_errors(self.path, _NOT_WRITTEN), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, step: int, before: Masks, after: Masks) -> None:
        frame, crc = log.entry(step, self._step, flat(before), flat(after), self._crc)
        # r+b never creates a file, which would have no beginning.
        with file_errors(self.path, _NOT_WRITTEN), self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(frame)
        self._step, self._crc = step, crc


def _converted(known: log.Log, recipe: Recipe, steps_per_epoch: int, path: Path) -> tuple[bytes, int]:
    """Return a history in the present format, and the CRC-32 of its last frame."""
    initial = initial_masks(known, recipe, steps_per_epoch, path)
    step = known.start.step
    data, crc = log.begin(step, known.shapes, initial, stored=known.stored)
    frames = [data]
    for moment in moments(known, initial, path):
        frame, crc = log.entry(moment.step, step, moment.before, moment.after, crc)
        frames.append(frame)
        step = moment.step
    return b"".join(frames), crc
