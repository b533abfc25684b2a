"""Checkpoints, metrics and history of a run in its folder, where only the first of several ranks reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from granet import checkpoint
from granet.checkpoint import Checkpoint
from granet.history.recorder import HistoryRecorder
from granet.runs import json_lines
from granet.runs.folder import RunFolder
from granet.runs.retention import Retention
from granet.topology import TopologyUpdate
from granet.training.checkpoint_thread import Saver
from granet.training.run import Run


class NullWriter:
    """The writer of every other rank: does nothing."""

    def update(self, update: TopologyUpdate) -> None:
        """Append an update to the history."""

    def line(self, line: Mapping[str, object]) -> None:
        """Append a line to the metrics."""

    def release(self) -> None:
        """Wait until the tensors of a saved state may change; raises the error of a save that failed."""

    def close(self) -> None:
        """Wait until everything is on disk; raises the error of a save that failed."""

    def save(self, state: Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """Begin to save ``state`` as the newest checkpoint, and as the ``best`` and one to ``keep`` where wanted."""

    def best(self) -> Checkpoint | None:
        """Load the checkpoint of the best epoch."""
        return None

    def tested(self, result: Mapping[str, Any]) -> None:
        """Add the result of the test to the newest checkpoint."""


class RunWriter(NullWriter):
    """The writer of the first rank."""

    def __init__(self, folder: RunFolder, run: Run, *, begun: bool) -> None:
        self._folder = folder
        self._saver = Saver(run.device)
        self._retention = Retention.of(run.recipe, run.pipeline.steps_per_epoch)
        masks, path = run.sparsifier.masks, folder.history
        if begun:
            per_epoch = run.pipeline.steps_per_epoch
            self._history = HistoryRecorder.resume(path, run.step, masks, run.metrics, run.recipe, per_epoch)
        else:
            self._history = HistoryRecorder.begin(path, run.step, masks, drawn=run.recipe.rewind is None)

    def update(self, update: TopologyUpdate) -> None:
        """Append an update to the history."""
        self._history.add(update)

    def line(self, line: Mapping[str, object]) -> None:
        """Append a line to the metrics."""
        json_lines.append(self._folder.metrics_file, line, failed="metrics could not be written")

    def release(self) -> None:
        """See ``NullWriter``."""
        self._saver.release()

    def close(self) -> None:
        """See ``NullWriter``."""
        self._saver.close()

    def save(self, state: Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """See ``NullWriter``."""
        self._saver.close()  # before listing the files
        folder, kept = self._folder, self._folder.kept_steps()
        paths, obsolete = [folder.best] if best else [], []
        if keep and self._retention.keeps(state.step):
            paths.append(folder.kept(state.step))
            obsolete = [folder.kept(old) for old in self._retention.obsolete(kept, state.step)]
        self._history.sync()  # the history has every update that a checkpoint has seen
        self._saver.submit(state, (*paths, folder.last), obsolete=obsolete)

    def best(self) -> Checkpoint:
        """See ``NullWriter``."""
        return checkpoint.load(self._folder.best)

    def tested(self, result: Mapping[str, Any]) -> None:
        """See ``NullWriter``."""
        last = checkpoint.load(self._folder.last)
        last.metrics["test"] = dict(result)
        checkpoint.save(self._folder.last, last)
