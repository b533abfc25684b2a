"""Training curves for TensorBoard, as scalars over the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
        for name, value in _scalars(event).items():
            if writer is not None and value is not None:
                writer.add_scalar(name, value, step)

    try:
        yield watch
    finally:
        if writer is not None:
            writer.close()


def _scalars(event: Event) -> dict[str, Any]:
    match event:
        case Progressed():
            return {
                "progress/loss": event.loss,
                "progress/accuracy": event.accuracy,
                "progress/learning_rate": event.learning_rate,
                "progress/images_per_second": event.images_per_second,
            }
        case EpochEnded():
            return {
                "train/loss": event.loss,
                "train/accuracy": event.accuracy,
                "validation/loss": event.validation_loss,
                "validation/accuracy": event.validation_accuracy,
                "density": event.density,
            }
        case Updated():
            return {"density": event.density, "exploration_rate": event.exploration_rate}
        case Tested():
            return {"test/loss": event.loss, "test/accuracy": event.accuracy}
        case _:
            return {}
