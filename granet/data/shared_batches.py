"""Memory for batches, shared by the workers that fill it and the process that trains.

Allocating and mapping shared memory is slow; here both are done once. What is sent from process to process is which
slot of that memory holds a batch.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from granet.errors import DataError

PREFETCH = 2
"""Batches that each worker makes in advance."""

SLOTS = PREFETCH + 2
"""Batches that a worker has memory for: those in advance, the one in use, and one to be on the safe side."""


class SharedBatches:
    """Shared memory that is used over and over: each worker has ``SLOTS`` slots of its own and takes them in turn.

    Args:
        workers: how many.
        batches: how many a worker makes at most; it may need fewer slots then.
        shape: of a batch, [B, S, S, 3].

    Raises:
        DataError: there is not enough shared memory.
    """

    _known: ClassVar[WeakValueDictionary[int, SharedBatches]] = WeakValueDictionary()
    _numbers: ClassVar = itertools.count()

    def __init__(self, workers: int, batches: int, shape: tuple[int, ...]) -> None:
        shape = (workers, min(SLOTS, batches), *shape)
        like = torch.empty(0, dtype=torch.uint8)
        try:
            storage = like.untyped_storage()._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise DataError(
                "no memory for the batches of the workers",
                got=error,
                expected=f"{math.prod(shape)} bytes of shared memory",
                remedy="use fewer workers or smaller batches, or give the machine or /dev/shm more",
            ) from error
        self._memory = like.set_(storage, 0, torch.Size(shape), torch.empty(shape, device="meta").stride())
        self._number = next(self._numbers)
        self._known[self._number] = self  # in this process alone; copies in workers are never looked up

    def slot(self, worker: int, turn: int, count: int) -> tuple[Tensor, Tensor]:
        """Return, in a worker, bytes to fill, [count, S, S, 3], and a value to send that arrives as a tensor."""
        turn %= self._memory.shape[1]
        return self._memory[worker, turn, :count], cast(Tensor, _SlotReference(self._number, worker, turn, count))

    @classmethod
    def received(cls, number: int, worker: int, turn: int, count: int) -> Tensor:
        """Return, in the process that trains, the batch that was sent: uint8 [count, 3, S, S]."""
        return cls._known[number]._memory[worker, turn, :count].permute(0, 3, 1, 2)


class _SlotReference:
    """A batch in a slot, which becomes a tensor where it is taken from the queue."""

    def __init__(self, *slot: int) -> None:
        self._slot = slot

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedBatches.received, self._slot
