"""The report of one run, as data: a snapshot of the whole run at its newest checkpoint.

If that checkpoint is replaced while the files are read, they are read again. What the run did after it is left out: a
resumed run does it once more.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from granet import flops
from granet.analysis import run_summary
from granet.analysis.history import HistoryReport, report_history
from granet.analysis.inspection import Inspection, inspect, rebuild
from granet.analysis.json_values import json_value
from granet.analysis.measured_trajectory import measure_trajectory
from granet.analysis.plan_warnings import Caution, cautions
from granet.analysis.run_summary import RunCheckpoints, RunSummary
from granet.analysis.trajectory import Trajectory
from granet.checkpoint import Checkpoint, content_hash
from granet.errors import CheckpointError, FileError, GranetError
from granet.history.replay import Replay
from granet.masks import mapping
from granet.recipe import build_method
from granet.runs import metrics, sessions
from granet.runs.folder import RunFolder
from granet.runs.sessions import RunSession

_TRIES, _PAUSE = 8, 0.25
"""Attempts to read a run that is being written to, and seconds between them."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What a run measured in one epoch; None where the checkpoint holds no finite number."""

    epoch: int
    """From 1."""
    step: int
    """Optimizer steps done by then."""
    loss: float | None
    """Mean over the augmented training images, while the weights changed."""
    accuracy: float | None
    """Over the same images, 0 to 1."""
    validation_loss: float | None
    validation_accuracy: float | None
    """0 to 1."""
    density: float | None
    """0 to 1."""
    learning_rate: float | None
    """Of the last step."""
    images_per_second: float | None
    """Of training alone: without validation, saving and pauses."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything that ``granet report`` shows of one run."""

    summary: RunSummary
    """Its result, of the checkpoint that it is judged by."""
    state: str
    """finished (and tested), running (a process on this machine holds the folder) or interrupted."""
    begins_at: int
    """First step: 0, except for a rewound run."""
    steps_per_epoch: int
    epochs: tuple[Epoch, ...]
    history: HistoryReport | None
    """Changes of its masks; None for a run without a history."""
    training_flops: Mapping[str, float] | None
    """``active`` and ``dense``: over all steps so far, with the masks of each step and without masks. None when the
    network could not be rebuilt, or the history does not begin where the run did."""
    seconds: float | None
    """Training time from the recorded speeds, without validation, saving and pauses; None when one is missing."""
    cautions: tuple[Caution, ...]
    """Warnings; only for a finished run with a history and known FLOPs."""
    ranks: int
    """Processes that trained together in the newest session."""
    sessions: tuple[RunSession, ...]
    """Where and when it was trained; empty if not recorded."""
    begun: str | None
    """Modification time of recipe.toml, UTC, ISO 8601; copying the folder may have changed it."""
    saved: str | None
    """That of the newest checkpoint."""
    notes: tuple[str, ...]
    """What is unknown, and why."""

    @property
    def inspection(self) -> Inspection:
        """The checkpoint that the run is judged by, layer by layer."""
        return self.summary.inspection

    @property
    def active_parameters(self) -> int:
        """Active weights plus all parameters without a mask."""
        counts = self.inspection
        return counts.total_parameters - counts.parameters + counts.active

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        del own["summary"], own["history"]
        document: dict[str, Any] = json_value(own)
        return self.summary.as_json() | {
            **document,
            "active_parameters": self.active_parameters,
            "layers": self.inspection.as_json()["layers"],
            "exploration": self.inspection.exploration,
            "history": None if self.history is None else self.history.as_json(),
            "settings": self.summary.recipe.as_dict(),
            "lineage": json_value(self.inspection.lineage),
        }


def read(folder: Path, *, factory: str | None = None) -> RunReport:
    """Return the report of the run in ``folder``, as of its newest checkpoint.

    Args:
        folder: of a run.
        factory: confirms the user's own network, ``package.module:factory``; see ``inspect``.

    Raises:
        UsageError: no run was begun here, or it has no checkpoint yet.
        CheckpointError: a file is damaged, missing, of a newer version or not of this run; or the run is being written
            to so fast that no two of its files belong together.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        before = _hash(folder)
        try:
            found = _read(folder, factory)
        except GranetError as error:
            half_saved = isinstance(error, _HalfSavedError) and RunFolder(folder).is_claimed()  # the other half follows
            if _hash(folder) == before and not half_saved:
                raise
        else:
            if _hash(folder) == before:
                return found
    raise CheckpointError(
        "the run is being written to, and its files changed whenever they were read",
        where=folder,
        remedy="try again in a moment",
    )


class _HalfSavedError(CheckpointError):
    """The best checkpoint is newer than the newest one."""


def _hash(folder: Path) -> str | None:
    """Return the content hash of the newest checkpoint; None when it cannot be read."""
    with suppress(FileError):
        return content_hash(RunFolder(folder).last)
    return None


def _read(folder: Path, factory: str | None) -> RunReport:
    files = RunFolder(folder)
    running = files.is_claimed()
    checkpoints = run_summary.open_checkpoints(folder)
    last = checkpoints.last
    if checkpoints.shown.step > last.step:
        raise _HalfSavedError(
            "the checkpoint of the best epoch is newer than the newest state: saving was cut short",
            where=checkpoints.file,
            got=f"step {checkpoints.shown.step}",
            expected=f"at most step {last.step}",
            remedy=f"go on with the run by granet train --resume {folder}, which trains these steps once more",
        )
    steps_per_epoch = _count(last, "steps_per_epoch", files)
    inspection = inspect(checkpoints.shown, factory=factory)
    summary = run_summary.summarise(folder, checkpoints, inspection)
    history, history_notes = _history(folder)
    speeds, speed_fault = metrics.read_speeds(files, step=last.step)
    trained, session_fault = sessions.read(files, step=last.step)
    epochs, epoch_notes = _epochs(last, speeds)
    begins_at = 0 if summary.recipe.rewind is None else summary.recipe.rewind.start
    trajectory, warnings = _trajectory(checkpoints, history, begins_at, steps_per_epoch, factory)
    seconds = _seconds(epochs, begins_at, last.step, summary.recipe.training.batch_size)
    notes = [*summary.inspection.notes, *history_notes]
    if speed_fault:
        notes.append(speed_fault)
    elif epochs and seconds is None:
        notes.append("the time is unknown: some steps are in no epoch with a recorded speed")
    if session_fault:
        notes.append(session_fault)
    flops_of = {"active": trajectory.training_flops, "dense": trajectory.dense_training_flops} if trajectory else None
    return RunReport(
        summary=summary,
        state="finished" if summary.finished else "running" if running else "interrupted",
        begins_at=begins_at,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        history=history,
        training_flops=flops_of,
        seconds=seconds,
        cautions=warnings,
        ranks=_count(last, "ranks", files, default=1),
        sessions=trained,
        begun=_date(files.recipe_file),
        saved=_date(files.last),
        notes=(*notes, *epoch_notes),
    )


def _count(last: Checkpoint, key: str, files: RunFolder, *, default: int | None = None) -> int:
    value = last.progress.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError("not a positive number", where=f"{files.last}: progress.{key}", got=value)
    return value


def _history(folder: Path) -> tuple[HistoryReport | None, list[str]]:
    """Return the changes of the masks, and notes on what is missing.

    Raises:
        CheckpointError: the history is damaged, of a newer version or of another run.
    """
    path = RunFolder(folder).history
    if not os.path.lexists(path):
        return None, [f"it has no {path.name}, so what its masks did over time is unknown"]
    replay = Replay.open(folder)
    # The other notes say that the run is not finished, which its state shows.
    late = [] if replay.whole else [note for note in replay.notes if note.startswith("the history begins")]
    return report_history(replay), late


def _trajectory(
    checkpoints: RunCheckpoints,
    history: HistoryReport | None,
    begins_at: int,
    steps_per_epoch: int,
    factory: str | None,
) -> tuple[Trajectory | None, tuple[Caution, ...]]:
    """Return the trajectory of the run and warnings about it; None where the history or the FLOPs are unknown."""
    if history is None or history.begins_at != begins_at:
        return None, ()
    last = checkpoints.last
    try:
        size = last.network.image_size
        costs = flops.layers(rebuild(last, factory), (last.network.in_channels, size, size))
        method = build_method(last.recipe, steps_per_epoch)
    except GranetError:
        return None, ()  # the inspection has the reason
    shapes = mapping.shapes(last.masks)
    trajectory = measure_trajectory(history, shapes, costs, method, batch_size=last.recipe.training.batch_size)
    if not checkpoints.finished:
        return trajectory, ()  # a part of a run says little about the whole
    found = cautions(trajectory, method, costs, steps_per_epoch=steps_per_epoch)
    explored = f"{trajectory.reach:.0%} of the weights were active at some time: swap more often, or more at once"
    own = [replace(one, message=explored) if one.kind == "little-exploration" else one for one in found]
    return trajectory, tuple(own)


_MEASURED = ("loss", "accuracy", "validation_loss", "validation_accuracy", "density", "learning_rate")


def _epochs(last: Checkpoint, speed: Mapping[int, float]) -> tuple[tuple[Epoch, ...], list[str]]:
    """Return what was measured in each epoch, and a note on entries that are malformed."""
    recorded = last.metrics.get("epochs")
    entries = recorded if isinstance(recorded, list) else []
    found = [
        Epoch(
            epoch=entry["epoch"],
            step=entry["step"],
            **{key: _number(entry, key) for key in _MEASURED},
            images_per_second=speed.get(entry["epoch"]),
        )
        for entry in entries
        if isinstance(entry, dict) and type(entry.get("epoch")) is int and type(entry.get("step")) is int
    ]
    strange = len(entries) - len(found)
    return tuple(found), [f"{strange} of the epochs are malformed in the checkpoint"] if strange else []


def _number(entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _seconds(epochs: Sequence[Epoch], begins_at: int, step: int, batch_size: int) -> float | None:
    """Return images over images per second, summed over epochs; None when a speed or an epoch is missing."""
    total, done = 0.0, begins_at
    for epoch in epochs:
        if epoch.images_per_second is None:
            return None
        total += (epoch.step - done) * batch_size / epoch.images_per_second
        done = epoch.step
    return total if epochs and done == step and total > 0 else None


def _date(path: Path) -> str | None:
    """Return when a file was last written, UTC, ISO 8601; None when it is missing."""
    with suppress(OSError, OverflowError, ValueError):
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return written.strftime("%Y-%m-%dT%H:%M:%SZ")
    return None
