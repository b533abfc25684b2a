"""The ranks that train together, as training sees them: a world of one, which needs to ask nobody.

``granet.training.distributed.process_group.Group`` is the same for several processes. The loop is written against this
interface and does not know which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from torch import Tensor, nn

from granet.data.ranks import ALONE, Ranks
from granet.errors import GranetError, TrainingError
from granet.masks.codec import Bytes
from granet.masks.mapping import Masks
from granet.training.compiling import compiled

Result = TypeVar("Result")
Facts = Mapping[str, str]
"""What has to be the same on every rank: a value or a hash by the name that an error gives it."""


class TrainableNetwork(Protocol):
    """A network whose gradients are those of the whole batch once the last part of a batch is through."""

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of this rank's images."""
        ...

    def part(self, *, last: bool) -> AbstractContextManager[object]:
        """Holds during forward and backward of a part of the batch; gradients are reduced with the last one."""
        ...


class World:
    """One process."""

    ranks: Ranks = ALONE
    again: bool = False
    """Whether rank 0 knows that ranks met here before, which then must have been lost."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone reads and writes the folder of the run."""
        return self.ranks.rank == 0

    @property
    def purpose(self) -> tuple[int, ...]:
        """What is added to the key of draws that must differ between ranks; nothing for rank 0."""
        return (self.ranks.rank,) if self.ranks.rank else ()

    def normalised(self, model: nn.Module) -> nn.Module:
        """``model`` with batch norms that see the images of all ranks; names and weights stay what they are."""
        return model

    def network(
        self,
        model: nn.Module,
        images: Callable[[], Tensor],  # noqa: ARG002  several ranks need it, as what is marked so below
        number_format: Callable[[], AbstractContextManager[object]],  # noqa: ARG002
        *,
        compile: bool,
    ) -> TrainableNetwork:
        """``model``, whose weights are all in place, as it is to be trained.

        Args:
            model: its gradients are going to be those of all ranks.
            images: makes some of the shape, type and device of those that it is going to be given.
            number_format: makes the context of a forward pass.
            compile: whether to put it through torch.compile.

        Raises:
            ModelError: several ranks cannot train it together.
        """
        return _Plain(compiled(model) if compile else model)

    def totals(self, loss: Tensor, correct: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The sums over all ranks of two numbers on the device, float64 and int64; the same bits on every rank.

        Raises:
            TrainingError: the ranks do not have the same ``masks``. Where reading waits for the device, this is
                noticed by ``check_masks`` instead.
        """
        return loss, correct

    def check_masks(self, masks: Masks) -> None:
        """Returns when the masks of all ranks were the same whenever ``totals`` looked. Waits for the device.

        Raises:
            TrainingError: they were not, or are not now.
        """

    def gathered(self, numbers: Tensor) -> Tensor:
        """The numbers of every rank, [ranks, *shape]; each rank has the same shape."""
        return numbers[None]

    def polled(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """``stop`` for all ranks: True on all of them at the same time, soon after it was True on one.

        Every rank has to ask equally often.
        """
        return stop

    def any(self, mine: bool) -> bool:
        """Whether it is so on one rank at least."""
        return mine

    def agree(self, what: str, facts: Callable[[], Facts], kind: type[GranetError] = TrainingError) -> None:
        """Returns when ``facts`` are the same on every rank; a single one has nobody to differ from.

        Raises:
            GranetError: of that kind, on every rank: they differ. The first that does is named, and the ranks.
        """

    def together(self) -> AbstractContextManager[None]:
        """What all ranks get through, or none: an error of one becomes one of all at the end of the block."""
        return nullcontext()

    def from_first(self, work: Callable[[], Bytes | memoryview | bytes | None]) -> Bytes | memoryview | bytes | None:
        """What ``work`` returns on rank 0, where alone it is called; its error is raised on every rank."""
        return work()

    def same_buffers(self, model: nn.Module) -> None:
        """Makes the buffers of ``model`` those of rank 0."""

    def mark(self, take: Callable[[], Result]) -> Result | None:  # noqa: ARG002
        """``take()`` on a rank that has to save though a step was cut short by the loss of another; else None."""
        return None


class _Plain:
    """A network that nothing needs to be done about."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self._forward = forward
        self._nothing = nullcontext()

    def __call__(self, images: Tensor) -> Tensor:
        return self._forward(images)

    def part(self, *, last: bool) -> AbstractContextManager[object]:  # noqa: ARG002
        return self._nothing
