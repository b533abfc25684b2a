"""Memory for batches that workers and the process that trains have in common.

Pages of shared memory are slow to come by, and so is the right to map them; here both are got once. What crosses from
process to process is where a batch lies.
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

PLACES = PREFETCH + 2
"""Batches that a worker has memory for: those in advance, the one in use, and one to be on the safe side."""


class Places:
    """Memory that is used over and over: each worker has ``PLACES`` of its own and takes them in turn.

    Args:
        workers: how many.
        batches: how many a worker makes at most; it may need fewer places then.
        shape: of a batch, [B, S, S, 3].

    Raises:
        DataError: there is not as much.
    """

    _known: ClassVar[WeakValueDictionary[int, Places]] = WeakValueDictionary()
    _numbers: ClassVar = itertools.count()

    def __init__(self, workers: int, batches: int, shape: tuple[int, ...]) -> None:
        shape = (workers, min(PLACES, batches), *shape)
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
        self._known[self._number] = self  # in this process alone: what is copied to workers has no need to be found

    def place(self, worker: int, turn: int, count: int) -> tuple[Tensor, Tensor]:
        """For a worker: bytes to be written, [count, S, S, 3], and what to send, which is a tensor where it arrives."""
        turn %= self._memory.shape[1]
        return self._memory[worker, turn, :count], cast(Tensor, _Sent(self._number, worker, turn, count))

    @classmethod
    def batch(cls, number: int, worker: int, turn: int, count: int) -> Tensor:
        """For the process that trains: what was sent, uint8 [count, 3, S, S], in the memory of ``number``."""
        return cls._known[number]._memory[worker, turn, :count].permute(0, 3, 1, 2)


class _Sent:
    """A batch in a place, which becomes a tensor where it is taken from the queue."""

    def __init__(self, *where: int) -> None:
        self._where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return Places.batch, self._where
