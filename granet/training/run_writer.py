"""What a run writes into its folder, and reads back. Of several ranks the first one does, and no other touches it."""

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


class Records:
    """Checkpoints, metrics and the history of masks of one run; those of a rank that does not write are nothing."""

    def update(self, update: TopologyUpdate) -> None:
        """Notes a change of the masks."""

    def line(self, line: Mapping[str, object]) -> None:
        """Adds a line to the metrics."""

    def release(self) -> None:
        """Returns once nothing reads the tensors of a saved state any more; raises the error of a save that failed."""

    def close(self) -> None:
        """Returns once all is on disk; raises the error of a save that failed."""

    def save(self, state: Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """Begins to save ``state`` as the last one: also as the best, and as one to keep where that is wanted."""

    def best(self) -> Checkpoint | None:
        """The checkpoint of the best epoch."""
        return None

    def tested(self, result: Mapping[str, Any]) -> None:
        """Adds how the test went to the last checkpoint, which is on disk."""


class Written(Records):
    """Those of the rank that writes."""

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
        """Notes a change of the masks."""
        self._history.add(update)

    def line(self, line: Mapping[str, object]) -> None:
        """Adds a line to the metrics."""
        json_lines.append(self._folder.metrics_file, line, failed="metrics could not be written")

    def release(self) -> None:
        """See ``Records``."""
        self._saver.release()

    def close(self) -> None:
        """See ``Records``."""
        self._saver.close()

    def save(self, state: Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """See ``Records``."""
        self._saver.close()  # before looking at what is there
        folder, kept = self._folder, self._folder.kept_steps()
        paths, obsolete = [folder.best] if best else [], []
        if keep and self._retention.keeps(state.step):
            paths.append(folder.kept(state.step))
            obsolete = [folder.kept(old) for old in self._retention.obsolete(kept, state.step)]
        self._history.sync()  # it never lacks what a checkpoint has seen
        self._saver.submit(state, (*paths, folder.last), obsolete=obsolete)

    def best(self) -> Checkpoint:
        """See ``Records``."""
        return checkpoint.load(self._folder.best)

    def tested(self, result: Mapping[str, Any]) -> None:
        """See ``Records``."""
        last = checkpoint.load(self._folder.last)
        last.metrics["test"] = dict(result)
        checkpoint.save(self._folder.last, last)
