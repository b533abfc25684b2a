"""Keeps the history of a run: a frame is added to the file at every update, and nothing in it is ever changed.

The frame of a large network takes several times as long as the update. So a thread makes it while training goes on,
one at a time; the masks of an update never change.

Whatever a checkpoint has seen is on disk before the checkpoint is. So a run that goes on finds in the file every
update up to its step, cuts off what lies past it, which is going to happen again, and adds to it what an undisturbed
run would have added.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from granet.errors import CheckpointError
from granet.files import atomic, mapped
from granet.files.atomic import file_errors
from granet.history import Beginning, flat
from granet.history import format as log
from granet.masks.mapping import Masks
from granet.topology import TopologyUpdate
from granet.training.run import Run

_ANEW = "move it away: the run goes on without it, and its history then begins at this step"
_NOT_WRITTEN = "the history could not be written"


class HistoryRecorder:
    """The file of one run, open for more."""

    def __init__(self, path: Path, step: int, chain: int) -> None:
        self.path = path
        self._step, self._chain = step, chain
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="granet-history")
        self._pending: Future[None] | None = None

    @classmethod
    def of(cls, path: Path, run: Run, *, begun: bool) -> HistoryRecorder:
        """That of a run which has ``begun`` before and goes on, or begins now; see the two below."""
        return cls.go_on(path, run) if begun else cls.begin(path, run, drawn=run.recipe.rewind is None)

    @classmethod
    def begin(cls, path: Path, run: Run, *, drawn: bool) -> HistoryRecorder:
        """A new file, in place of whatever is there, for a run as it stands.

        Args:
            path: of the file.
            run: where the history begins.
            drawn: whether its masks are still those that its recipe draws, which then need not be stored.

        Raises:
            FileError: it cannot be written.
        """
        masks = run.sparsifier.masks
        shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
        data, chain = log.begin(run.step, shapes, flat(masks), stored=not drawn)
        atomic.write(path, data)
        return cls(path, run.step, chain)

    @classmethod
    def go_on(cls, path: Path, run: Run) -> HistoryRecorder:
        """The file of a run that goes on, cut off at its step; a new one where an older granet kept none.

        Raises:
            CheckpointError: it is damaged or not of this run.
            FileError: it cannot be read or written.
        """
        if not os.path.lexists(path):
            return cls.begin(path, run, drawn=False)
        found = log.parse(mapped.read(path).tobytes(), str(path))
        _check_shapes(found.beginning, run)
        done = [entry for entry in found.entries if entry.step <= run.step]
        updates = steps_after(found.beginning.step, run.metrics)
        if found.beginning.step > run.step or [entry.step for entry in done] != updates:
            raise CheckpointError(
                "the history does not have the updates of this run",
                where=path,
                got=f"{len(done)} from step {found.beginning.step} to {run.step}",
                expected=len(updates),
                remedy=_ANEW,
            )
        end = done[-1].end if done else found.start
        if end < found.size:
            with file_errors(path, _NOT_WRITTEN):
                os.truncate(path, end)
        return cls(path, done[-1].step if done else found.beginning.step, found.chain[len(done)])

    def add(self, update: TopologyUpdate) -> None:
        """Adds an update; it is in the file after ``sync``. Waits for the one before it.

        Raises:
            FileError: the one before it could not be written.
        """
        self._wait()
        self._pending = self._worker.submit(self._write, update.step, update.before, update.masks)

    def sync(self) -> None:
        """Returns once all that was added is on disk.

        Raises:
            FileError: that could not be done.
        """
        self._wait()
        with file_errors(self.path, _NOT_WRITTEN), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, step: int, before: Masks, after: Masks) -> None:
        frame, chain = log.entry(step, self._step, flat(before), flat(after), self._chain)
        # r+b makes no new file, which would have no beginning
        with file_errors(self.path, _NOT_WRITTEN), self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(frame)
        self._step, self._chain = step, chain


def steps_after(step: int, metrics: Mapping[str, object]) -> list[int]:
    """The steps of the updates past ``step`` that the metrics of a run tell of."""
    updates = metrics["updates"]
    assert isinstance(updates, list)  # noqa: S101  every run has them
    return [update["step"] for update in updates if update["step"] > step]


def _check_shapes(beginning: Beginning, run: Run) -> None:
    mine = {name: tuple(mask.shape) for name, mask in run.sparsifier.masks.items()}
    if list(beginning.shapes.items()) != list(mine.items()):
        raise CheckpointError("the history is of another network", where="history", remedy=_ANEW)
