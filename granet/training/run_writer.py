"""Checkpoints, metrics and history of a run in its folder; of several ranks only the first has a writer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from granet import checkpoint
from granet.checkpoint import Checkpoint
from granet.history.recorder import HistoryRecorder
from granet.runs import json_lines
from granet.runs.folder import RunFolder
from granet.topology import TopologyUpdate
from granet.training.checkpoint_thread import CheckpointThread
from granet.training.run import Run


class RunWriter:
    """Writer of everything in the folder of a run but its recipe and its sessions."""

    def __init__(self, folder: RunFolder, run: Run, *, saved: bool) -> None:
        self._folder = folder
        self._retention = run.retention
        self.checkpoints = CheckpointThread(run.device)
        masks, path = run.sparsifier.masks, folder.history
        if saved:
            per_epoch = run.pipeline.steps_per_epoch
            self._history = HistoryRecorder.resume(path, run.step, masks, run.metrics, run.recipe, per_epoch)
        else:
            self._history = HistoryRecorder.begin(path, run.step, masks, drawn=run.recipe.rewind is None)

    def line(self, line: Mapping[str, object]) -> None:
        """Append a line to the metrics."""
        json_lines.append(self._folder.metrics_file, line, failed="metrics could not be written")

    def update(self, update: TopologyUpdate, entry: Mapping[str, object]) -> None:
        """Append an update to the metrics, where it is ``entry``, and to the history.

        A thread writes the history while the next step computes.
        """
        active = {name: counts["active"] for name, counts in update.counts.items()}
        self.line({"event": "update", **entry, "layers": active})
        self._history.add(update)

    def save(self, state: Checkpoint, *, best: bool, keep: bool) -> None:
        """Begin to save ``state`` as the newest checkpoint, and as the ``best`` and one to ``keep`` where wanted."""
        self.checkpoints.close()  # before listing the files
        folder, kept = self._folder, self._folder.kept_steps()
        paths, obsolete = [folder.best] if best else [], []
        if keep and self._retention.keeps(state.step):
            paths.append(folder.kept(state.step))
            obsolete = [folder.kept(old) for old in self._retention.obsolete(kept, state.step)]
        self._history.sync()  # the history has every update that a checkpoint has seen
        self.checkpoints.submit(state, (*paths, folder.last), obsolete=obsolete)

    def tested(self, step: int, result: Mapping[str, Any]) -> None:
        """Add the result of the test to the metrics and to the newest checkpoint."""
        self.line({"event": "test", "step": step, **result})
        last = checkpoint.load(self._folder.last)
        last.metrics["test"] = dict(result)
        checkpoint.save(self._folder.last, last)
