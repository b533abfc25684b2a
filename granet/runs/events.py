"""Events of a run, which are passed to its watchers as they happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from granet.topology import TopologyUpdate


@dataclass(frozen=True, kw_only=True)
class RoundRow:
    """The result of a round: a row of the table of density against accuracy.

    Accuracies are from 0 to 1, of the best epoch, which is the one that was tested.
    """

    round: int
    folder: str
    density: float
    active: int
    parameters: int
    step: int
    validation_accuracy: float
    test_accuracy: float
    bytes: int
    """Size of the checkpoint of the best epoch."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run begins or is resumed."""

    folder: Path
    device: str
    on_gpu: bool
    precision: str
    step: int
    total_steps: int
    steps_per_epoch: int
    epochs: int
    parameters: int
    density: float
    examples: dict[str, int]
    ranks: int = 1
    notes: tuple[str, ...] = ()
    """Notes on the weights that it starts from."""


@dataclass(frozen=True, kw_only=True)
class Resized:
    """A run is resumed with another number of ranks. ``changes`` says what that changes, in sentences."""

    step: int
    before: int
    now: int
    changes: str


@dataclass(frozen=True, kw_only=True)
class RoundStarted:
    """A round of pruning and retraining begins or is resumed, in a folder of its own."""

    round: int
    rounds: int
    density: float
    folder: Path


@dataclass(frozen=True, kw_only=True)
class RoundEnded:
    """A round is finished."""

    row: RoundRow
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """Progress within an epoch. Means are over the epoch so far; seconds left are to the end of the run."""

    step: int
    epoch: int
    loss: float
    accuracy: float
    density: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Updated:
    """The masks changed."""

    update: TopologyUpdate
    density: float
    exploration_rate: float


@dataclass(frozen=True, kw_only=True)
class EpochEnded:
    """An epoch was trained and validated. ``best`` says whether it is the best one at the final density so far."""

    epoch: int
    step: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    density: float
    learning_rate: float
    images_per_second: float | None
    best: bool


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint is being written in the background; if that fails, a later step raises the error."""

    path: Path
    step: int


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The checkpoint of the best epoch was tested, once, at the end of the run."""

    epoch: int
    loss: float
    accuracy: float
    examples: int


Event = RoundStarted | RoundEnded | Resized | Started | Progressed | Updated | EpochEnded | Saved | Tested

Watch = Callable[[Event], None]
"""A callback that receives every event."""
