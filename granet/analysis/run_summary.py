"""A run summarised: its result, or its progress, read from the checkpoints in its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granet.analysis.inspection import Inspection, inspect, newest_validation_accuracy, number_at
from granet.analysis.json_values import json_value
from granet.checkpoint import Checkpoint, load_outline
from granet.errors import CheckpointError
from granet.recipe import Recipe
from granet.runs import lineage
from granet.runs.folder import RunFolder


@dataclass(frozen=True)
class SplitImages:
    """The images of a dataset in numbers, which tell apart datasets of the same name."""

    classes: tuple[str, ...]
    channels: int
    size: int
    examples: tuple[tuple[str, str], ...]
    """Number of images by split."""

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.examples)
        return f"{len(self.classes)} classes, {self.channels} x {self.size} x {self.size}, {splits}"


@dataclass(frozen=True)
class Ancestor:
    """How a checkpoint that a rewound run comes from was trained, without its seed and what depends on it."""

    recipe: str
    method: str
    density: float | None
    mode: str | None
    round: int | None
    course: str | None
    """Hash of the settings of its training, see ``granet.runs.lineage.settings_hash``."""

    def __str__(self) -> str:
        how = self.method if self.mode is None else self.mode if self.round is None else f"{self.mode} {self.round}"
        how = how if self.density is None else f"{how} {self.density:.4f}"
        return how if self.course is None else f"{how} ({self.course[:6]})"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Result or progress of a run, for tables of runs.

    The figures of a finished run are those of ``best.safetensors``, the checkpoint that was tested; of another one
    those of its best epoch so far, or before there is one of the newest state.
    """

    path: Path
    """The folder."""
    recipe: Recipe
    model: str
    images: SplitImages
    ancestors: tuple[Ancestor, ...]
    """Of a rewound run, the oldest first."""
    checkpoint: str
    """Name of the file of the checkpoint that the run is judged by."""
    finished: bool
    """Whether it was trained to its end and tested."""
    step: int
    """Optimizer steps done."""
    validation_accuracy: float | None
    """0 to 1, of the best epoch at the final density, else of the newest epoch; None before the first."""
    test_accuracy: float | None
    """0 to 1; None before the end."""
    bytes: int
    """Size of the file."""
    inspection: Inspection
    """Counts and costs of that checkpoint, and notes on what is unknown."""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.recipe.seed

    @property
    def mode(self) -> str | None:
        """How it was rewound: lr, weights or finetune; None for a run that was not."""
        return None if self.recipe.rewind is None else self.recipe.rewind.mode

    @property
    def round(self) -> int | None:
        """Round of its rewind, from 1."""
        return None if self.recipe.rewind is None else self.recipe.rewind.round

    @property
    def rounds(self) -> int | None:
        """Rounds of its rewind."""
        return None if self.recipe.rewind is None else len(self.recipe.rewind.densities)

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        own = ("mode", "round", "rounds", "ancestors", "seed", "model", "checkpoint", "finished", "step", "bytes")
        inspected = ("total_steps", "density", "active", "parameters", "total_parameters", "flops", "notes")
        document: dict[str, Any] = json_value(
            {"path": self.path, "recipe": self.recipe.name, "method": self.recipe.method.name}
            | {"data": self.recipe.data.name}
            | {key: getattr(self, key) for key in (*own, "validation_accuracy", "test_accuracy")}
            | {key: getattr(self.inspection, key) for key in inspected}
        )
        return document


@dataclass(frozen=True, kw_only=True, eq=False)
class RunCheckpoints:
    """The checkpoints of a run that its summary needs, without the values of tensors."""

    last: Checkpoint
    """The newest one."""
    shown: Checkpoint
    """The one that the run is judged by: of the best epoch or, before there is one, the newest."""
    file: Path
    """Path of that one."""

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end and tested."""
        return "test" in self.last.metrics


def summarise_run(folder: Path, *, factory: str | None = None) -> RunSummary:
    """Return the summary of the run in ``folder``.

    Args:
        folder: of a run; its checkpoints are checked against their hashes.
        factory: confirms the user's own network, ``package.module:factory``; see ``inspect``.

    Raises:
        UsageError, CheckpointError: as ``open_checkpoints``.
    """
    checkpoints = open_checkpoints(folder)
    return summarise(folder, checkpoints, inspect(checkpoints.shown, factory=factory))


def open_checkpoints(folder: Path) -> RunCheckpoints:
    """Open the checkpoints of the run in ``folder``, checked against their hashes.

    Raises:
        UsageError: no run was begun here, or it has no checkpoint yet.
        CheckpointError: a checkpoint is damaged, missing or not of this run.
    """
    files = RunFolder(folder)
    last = files.newest()
    finished = "test" in last.metrics
    if not finished and not os.path.lexists(files.best):
        return RunCheckpoints(last=last, shown=last, file=files.last)
    shown = load_outline(files.best)
    _check_belongs(files.best, shown, last, tested=finished)
    return RunCheckpoints(last=last, shown=shown, file=files.best)


def summarise(folder: Path, checkpoints: RunCheckpoints, report: Inspection) -> RunSummary:
    """Return the summary of a run; ``report`` inspects the checkpoint that is shown."""
    last, file = checkpoints.last, checkpoints.file
    validation = newest_validation_accuracy(last.metrics)
    if file == RunFolder(folder).best:
        validation = number_at(checkpoints.shown.metrics, "best", "accuracy")
    return RunSummary(
        path=folder,
        recipe=last.recipe,
        model=last.network.name,
        images=SplitImages(
            classes=last.network.classes,
            channels=last.network.in_channels,
            size=last.network.image_size,
            examples=_examples(last),
        ),
        ancestors=tuple(_ancestor(note) for note in lineage.ancestors(last.metrics)),
        checkpoint=file.name,
        finished=checkpoints.finished,
        step=last.step,
        validation_accuracy=validation,
        test_accuracy=number_at(last.metrics, "test", "accuracy"),
        bytes=file.stat().st_size,
        inspection=report,
    )


def _check_belongs(file: Path, best: Checkpoint, last: Checkpoint, *, tested: bool) -> None:
    """Raise CheckpointError unless ``best`` is of the same run as ``last`` and, if that was tested, the tested one."""
    if best.recipe != last.recipe:
        raise CheckpointError(f"the checkpoint is of another run than {RunFolder(file.parent).last.name}", where=file)
    step = number_at(last.metrics, "best", "step")
    if tested and best.step != step:
        raise CheckpointError("not the checkpoint that was tested", where=file, got=f"step {best.step}", expected=step)


def _examples(checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    examples = checkpoint.progress.get("examples")
    counts = examples.items() if isinstance(examples, dict) else ()
    return tuple(sorted((split, str(count)) for split, count in counts))


def _ancestor(note: Mapping[str, Any]) -> Ancestor:
    number, mode = number_at(note, "round"), note.get("mode")
    return Ancestor(
        recipe=str(note.get("recipe")),
        method=str(note.get("method")),
        density=number_at(note, "density"),
        mode=None if mode is None else str(mode),
        round=None if number is None else int(number),
        course=None if note.get("course") is None else str(note["course"]),
    )
