"""Everything that is known of one run, as data.

A run is told whole or not at all. What is told of it is a snapshot at its newest checkpoint: when that one is replaced
while it is read, it is read again. What past it was done already may be done once more, and is not told.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from granet.analysis import run_summary as outcome
from granet.analysis.history import HistoryReport
from granet.analysis.history import tell as tell_history
from granet.analysis.inspection import Inspection, inspect, rebuild
from granet.analysis.measured_trajectory import measure_trajectory
from granet.analysis.plan_warnings import Caution, cautions
from granet.analysis.run_summary import RunCheckpoints, RunSummary
from granet.analysis.trajectory import Trajectory
from granet.checkpoint import Checkpoint, content_hash
from granet.errors import CheckpointError, FileError, GranetError
from granet.history.replay import Replay
from granet.layers import flops
from granet.masks import mapping
from granet.recipe import build_method
from granet.runs import metrics, sessions
from granet.runs.folder import RunFolder
from granet.runs.sessions import RunSession

_TRIES, _PAUSE = 8, 0.25
"""How often a run that is being written to is read anew, and for how many seconds to wait before."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What a run measured at the end of an epoch. What it did not note, or not as a number, is None."""

    epoch: int
    """From 1."""
    step: int
    """Optimizer steps done by then."""
    loss: float | None
    """Mean over the training images, as they were augmented, while the weights changed."""
    accuracy: float | None
    """Of the same, 0 to 1."""
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
    """One run."""

    outcome: RunSummary
    """What it came to, told of the checkpoint that it is judged by."""
    inspection: Inspection
    """That checkpoint, layer by layer."""
    state: str
    """finished (and tested), running (a process on this machine holds the folder) or interrupted."""
    begins_at: int
    """The step that it began at: 0, but for a rewound run."""
    steps_per_epoch: int
    epochs: tuple[Epoch, ...]
    history: HistoryReport | None
    """What its masks did; None for a run that keeps no history of them."""
    training_flops: Mapping[str, float] | None
    """``active`` and ``dense``: of all steps done so far, with the masks that there were and without any. None when the
    network could not be rebuilt, or the history does not begin where the run did."""
    seconds: float | None
    """What training took, from the speeds noted; without validation, saving and pauses. None when not all are noted."""
    cautions: tuple[Caution, ...]
    """What to think about; for a finished run with a history and costs."""
    ranks: int
    """Processes that trained together, the last time."""
    sessions: tuple[RunSession, ...]
    """Where and when it was trained; empty where that was not noted."""
    begun: str | None
    """Date of recipe.toml, UTC, ISO 8601: copying the folder may have changed it."""
    saved: str | None
    """Date of the newest checkpoint, likewise."""
    notes: tuple[str, ...]
    """What could not be told, and why."""

    @property
    def active_parameters(self) -> int:
        """Active weights, and all parameters that no mask covers."""
        return self.outcome.total_parameters - self.outcome.parameters + self.outcome.active

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return self.outcome.as_json() | {
            "state": self.state,
            "begins_at": self.begins_at,
            "steps_per_epoch": self.steps_per_epoch,
            "active_parameters": self.active_parameters,
            "training_flops": None if self.training_flops is None else dict(self.training_flops),
            "seconds": self.seconds,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "layers": self.inspection.as_json()["layers"],
            "exploration": self.inspection.exploration,
            "history": None if self.history is None else self.history.as_json(),
            "settings": self.outcome.recipe.as_dict(),
            "lineage": [dict(note) for note in self.inspection.lineage],
            "cautions": [{**asdict(caution), "layers": list(caution.layers)} for caution in self.cautions],
            "ranks": self.ranks,
            "sessions": [asdict(session) for session in self.sessions],
            "begun": self.begun,
            "saved": self.saved,
            "notes": list(self.notes),
        }


def read(folder: Path, *, factory: str | None = None) -> RunReport:
    """All about the run in ``folder``, as of its newest checkpoint.

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
        except _HalfSaved as half:
            if RunFolder(folder).is_claimed():
                continue  # the other half is on its way
            raise half.error from None
        except GranetError:
            if _hash(folder) == before:
                raise
            continue
        if _hash(folder) == before:
            return found
    raise CheckpointError(
        "the run is being written to, and its files changed whenever they were read",
        where=folder,
        remedy="try again in a moment",
    )


class _HalfSaved(Exception):  # noqa: N818  not always an error
    """The best checkpoint is newer than the newest one."""

    def __init__(self, error: CheckpointError) -> None:
        self.error = error


def _hash(folder: Path) -> str | None:
    """What identifies the newest checkpoint; None when there is none that can be read."""
    with suppress(FileError):
        return content_hash(RunFolder(folder).last)
    return None


def _read(folder: Path, factory: str | None) -> RunReport:
    files = RunFolder(folder)
    running = files.is_claimed()
    state = outcome.open_checkpoints(folder)
    last = state.last
    if state.shown.step > last.step:
        error = CheckpointError(
            "the checkpoint of the best epoch is newer than the newest state: saving was cut short",
            where=state.file,
            got=f"step {state.shown.step}",
            expected=f"at most step {last.step}",
            remedy=f"go on with the run by granet train --resume {folder}, which trains these steps once more",
        )
        raise _HalfSaved(error)
    steps_per_epoch = _steps(last, "steps_per_epoch", folder)
    told = outcome.summarise(folder, state, inspection := inspect(state.shown, factory=factory))
    past, notes = _history(folder)
    speed = metrics.read_speeds(files, step=last.step)
    trained, unsaid = sessions.read(files, step=last.step)
    epochs, epoch_notes = _epochs(last, speed.of_epochs)
    begins_at = 0 if told.recipe.rewind is None else told.recipe.rewind.start
    course, warned = _course(state, past, begins_at, steps_per_epoch, factory)
    seconds = _seconds(epochs, begins_at, last.step, told.recipe.training.batch_size)
    untimed = "the time is unknown: not all steps are in an epoch that noted its speed"
    slow = [] if seconds is not None or not epochs else [untimed]
    return RunReport(
        outcome=told,
        inspection=inspection,
        state="finished" if told.finished else "running" if running else "interrupted",
        begins_at=begins_at,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        history=past,
        training_flops=None
        if course is None
        else {"active": course.training_flops, "dense": course.dense_training_flops},
        seconds=seconds,
        cautions=warned,
        ranks=_ranks(last),
        sessions=trained,
        begun=_date(files.recipe_file),
        saved=_date(files.last),
        notes=(
            *told.notes,
            *notes,
            *([speed.fault] if speed.fault else slow),
            *([unsaid] if unsaid else []),
            *epoch_notes,
        ),
    )


def _steps(last: Checkpoint, key: str, folder: Path) -> int:
    value = last.progress.get(key)
    if type(value) is not int or value < 1:
        raise CheckpointError("not a number of steps", where=f"{RunFolder(folder).last}: progress.{key}", got=value)
    return value


def _ranks(last: Checkpoint) -> int:
    ranks = last.progress.get("ranks", 1)
    if type(ranks) is not int or ranks < 1:
        raise CheckpointError("not a number of ranks", where="progress.ranks", got=ranks)
    return ranks


def _history(folder: Path) -> tuple[HistoryReport | None, list[str]]:
    """What the masks did, and notes on what is missing of that.

    Raises:
        CheckpointError: the history is damaged, of a newer version or of another run.
    """
    path = RunFolder(folder).history
    if not os.path.lexists(path):
        return None, [f"it has no {path.name}, so what its masks did over time is unknown"]
    replay = Replay.open(folder)
    # That it is not finished is told by its state, and what lies past the checkpoint by the step.
    late = [] if replay.whole else [note for note in replay.notes if note.startswith("the history begins")]
    return tell_history(replay), late


def _course(
    state: RunCheckpoints, past: HistoryReport | None, begins_at: int, steps_per_epoch: int, factory: str | None
) -> tuple[Trajectory | None, tuple[Caution, ...]]:
    """The course that the run took, and what to think about; None where the history or the costs are not known."""
    if past is None or past.begins_at != begins_at:
        return None, ()
    made_of, recipe = state.last.network, state.last.recipe
    try:
        size = made_of.image_size
        costs = flops.layers(rebuild(state.last, factory), (made_of.in_channels, size, size))
        method = build_method(recipe, steps_per_epoch)
    except GranetError:
        return None, ()  # the inspection has the reason
    shapes = mapping.shapes(state.last.masks)
    course = measure_trajectory(past, shapes, costs, method, batch_size=recipe.training.batch_size)
    if not state.finished:
        return course, ()  # a part of a run says little about the whole
    found = cautions(course, method, costs, steps_per_epoch=steps_per_epoch)
    explored = f"{course.reach:.0%} of the weights were active at some time: swap more often, or more at once"
    return course, tuple(replace(one, message=explored) if one.kind == "little-exploration" else one for one in found)


def _epochs(last: Checkpoint, speed: Mapping[int, float]) -> tuple[tuple[Epoch, ...], list[str]]:
    """What was measured at the end of each epoch, and how many notes of that make no sense."""
    noted = last.metrics.get("epochs")
    entries = noted if isinstance(noted, list) else []
    found = [
        Epoch(
            epoch=entry["epoch"],
            step=entry["step"],
            loss=_number(entry, "loss"),
            accuracy=_number(entry, "accuracy"),
            validation_loss=_number(entry, "validation_loss"),
            validation_accuracy=_number(entry, "validation_accuracy"),
            density=_number(entry, "density"),
            learning_rate=_number(entry, "learning_rate"),
            images_per_second=speed.get(entry["epoch"]),
        )
        for entry in entries
        if isinstance(entry, dict) and type(entry.get("epoch")) is int and type(entry.get("step")) is int
    ]
    strange = len(entries) - len(found)
    return tuple(found), [f"{strange} of the epochs are noted in a way that makes no sense"] if strange else []


def _number(entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _seconds(epochs: Sequence[Epoch], begins_at: int, step: int, batch_size: int) -> float | None:
    """Images over images a second, summed over epochs; None when one is not known or a part of the run is in none."""
    total, done = 0.0, begins_at
    for epoch in epochs:
        if epoch.images_per_second is None:
            return None
        total += (epoch.step - done) * batch_size / epoch.images_per_second
        done = epoch.step
    return total if epochs and done == step and total > 0 else None


def _date(path: Path) -> str | None:
    """When a file was last written; None when it is not there."""
    with suppress(OSError, OverflowError, ValueError):
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return written.strftime("%Y-%m-%dT%H:%M:%SZ")
    return None
