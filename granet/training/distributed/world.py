"""Communication between the ranks that train together: the interface, and its single-process implementation.

``granet.training.distributed.process_group.ProcessGroup`` implements it for several processes. Training is written
against ``World`` and does not know which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from granet.checkpoint import Checkpoint
from granet.data.ranks import ALONE, Ranks
from granet.errors import GranetError, TrainingError
from granet.masks.codec import Bytes
from granet.masks.mapping import Masks
from granet.training.compiling import CompiledNetwork
from granet.training.distributed.agreement import Facts

Network = Callable[[Tensor], Tensor]
"""From images to logits."""
Message = Bytes | memoryview | bytes


class World:
    """Single-process implementation of the communication interface."""

    ranks: Ranks = ALONE
    restarted: bool = False
    """Whether torchrun started these ranks again after an earlier attempt failed; known to one rank at least."""
    undoes_lost_steps: bool = False
    """Whether this rank saves when another is lost, and so has to undo the step which that cut short."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which alone reads and writes the folder of the run."""
        return self.ranks.rank == 0

    @property
    def rank_key(self) -> tuple[int, ...]:
        """What to add to the key of random draws that differ between ranks; empty for rank 0."""
        return (self.ranks.rank,) if self.ranks.rank else ()

    def sync_batch_norms(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with batch norms that normalise by the images of all ranks; names and weights stay."""
        return model

    def data_parallel(
        self,
        model: nn.Module,
        images: Callable[[], Tensor],  # noqa: ARG002  several ranks need it, as what is marked so below
        autocast: Callable[[], AbstractContextManager[object]],  # noqa: ARG002
        *,
        compile: bool,
    ) -> Network:
        """Return ``model``, whose weights are in place, with its gradients averaged over the ranks, perhaps compiled.

        Args:
            images: makes images of the shape, type and device of those to come.
            autocast: makes the context of a forward pass.

        Raises:
            ModelError: several ranks cannot train it together.
        """
        return CompiledNetwork(model) if compile else model

    def gradient_sync(self, network: Network, *, last: bool) -> AbstractContextManager[object]:  # noqa: ARG002
        """Context of the forward and backward pass of a part of a batch; the last part averages the gradients."""
        return nullcontext()

    def sum_metrics(self, loss: Tensor, correct: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the sums over the ranks of loss, float64 [], and correct answers, int64 []: equal bits on every rank.

        Raises:
            TrainingError: the ranks do not have the same ``masks``. Where reading waits for the device,
                ``check_masks`` raises it instead.
        """
        return loss, correct

    def check_masks(self, masks: Masks) -> None:
        """Raise TrainingError if the ranks had different masks in any ``sum_metrics``. Waits for the device."""

    def all_gather(self, numbers: Tensor) -> Tensor:
        """Return the tensors of all ranks, [ranks, *shape]; each has the same shape."""
        return numbers[None]

    def stop_on_all(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function that is True on all ranks in the same step, soon after ``stop`` is True on one.

        Every rank has to call it equally often.
        """
        return stop

    def any(self, mine: bool) -> bool:
        """Return whether ``mine`` is True on at least one rank."""
        return mine

    def check_equal(self, what: str, facts: Callable[[], Facts], error: type[GranetError] = TrainingError) -> None:
        """Raise ``error`` on every rank if the ranks have different ``facts``; it names the first, and the ranks."""

    def share_errors(self) -> AbstractContextManager[None]:
        """Context at whose end an error of one rank is raised on all of them."""
        return nullcontext()

    def from_rank_zero(self, work: Callable[[], Message | None]) -> Message | None:
        """Call ``work`` on rank 0 only, and return what it returns, or raise its error, on every rank."""
        return work()

    def checkpoint_from_rank_zero(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """Call ``load`` on rank 0 only, and return its checkpoint, or raise its error, on every rank.

        It is sent in the bytes of its file, which are checked like those of any file.
        """
        return load()

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Set the buffers of ``model`` to those of rank 0."""


SINGLE_PROCESS = World()
