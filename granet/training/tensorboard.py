"""Training curves for TensorBoard, as scalars over the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from granet.errors import UsageError
from granet.runs.events import EpochEnded, Event, Progressed, Started, Tested, Updated
from granet.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def write_tensorboard(folder: RunFolder) -> Iterator[Callable[[Event], None]]:
    """Context that yields a watch function, which writes events into ``folder.tensorboard``.

    A run that resumes at an earlier step hides what was written past it, so that curves stay functions of the step.
    Files appear when the run starts, after a new run has cleared its folder.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed", got=error, remedy="install it with: pip install 'granet[tensorboard]'"
        ) from error

    writer: SummaryWriter | None = None
    step = 0

    def watch(event: Event) -> None:
        nonlocal writer, step
        if isinstance(event, Started):
            step = event.step
            writer = SummaryWriter(str(folder.tensorboard), purge_step=event.step + 1)
        step = getattr(event, "step", step)
        if isinstance(event, Updated):
            step = event.update.step
        for name, attribute in _SCALARS.get(type(event), {}).items():
            if writer is not None:
                writer.add_scalar(name, getattr(event, attribute), step)

    try:
        yield watch
    finally:
        if writer is not None:
            writer.close()


_SCALARS: dict[type, dict[str, str]] = {
    Progressed: {f"progress/{name}": name for name in ("loss", "accuracy", "learning_rate", "images_per_second")},
    EpochEnded: {
        "train/loss": "loss",
        "train/accuracy": "accuracy",
        "validation/loss": "validation_loss",
        "validation/accuracy": "validation_accuracy",
        "density": "density",
    },
    Updated: {"density": "density", "exploration_rate": "exploration_rate"},
    Tested: {"test/loss": "loss", "test/accuracy": "accuracy"},
}
"""The name of each scalar and the attribute of the event that it is, by type of event."""
