"""How a tensor is encoded: whole, or its active entries alone, with their positions stored once for the parameter.

Values are moved as bits, so that active zeros, -0.0 and the payloads of NaNs come back as they went.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from granet.checkpoint import container
from granet.checkpoint.header import DENSE, MaskPart
from granet.errors import CheckpointError
from granet.masks import codec
from granet.masks.codec import Bytes, Mask, Positions

# The integer type that stands in for every type of the same width where values are moved as bits.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_BLOCK = 2**16
"""Entries that are looked at together."""


@dataclass(frozen=True, eq=False)
class StoredMask:
    """A mask or explored set: its part of the header, and the bytes that encode its positions (none if all are)."""

    part: MaskPart
    data: Bytes

    @classmethod
    def encode(cls, mask: Mask, shape: tuple[int, ...]) -> StoredMask:
        """Encode ``mask``, bool [size], of a parameter of ``shape``."""
        count = int(np.count_nonzero(mask))
        encoding, data = (DENSE, np.empty(0, np.uint8)) if count == mask.size else codec.encode(mask)
        return cls(MaskPart(shape=shape, encoding=encoding, count=count), data)

    @property
    def all(self) -> bool:
        """Whether every entry is active."""
        return self.part.encoding == DENSE

    @property
    def size(self) -> int:
        """The number of entries, active or not."""
        return math.prod(self.part.shape)

    def check(self, where: str) -> None:
        """Check positions of unknown origin, which must be done before they are decoded.

        Raises:
            CheckpointError: they are not sound, or not as many as the header says.
        """
        if self.all:
            return
        try:
            found = codec.count(self.part.encoding, self.data, self.size)
        except ValueError as error:
            raise CheckpointError(f"the positions are not sound: {error}", where=where) from None
        if found != self.part.count:
            raise CheckpointError(
                "the number of positions is not that of the header", where=where, got=found, expected=self.part.count
            )

    def decode(self) -> Mask:
        """Return the mask, bool [size]."""
        if self.all:
            return np.ones(self.size, np.bool_)
        return codec.ENCODINGS[self.part.encoding].decode(self.data, self.size)

    def positions(self) -> Iterator[Positions]:
        """Yield the flat indices of active entries in increasing order, in blocks; not for masks of all entries."""
        return codec.ENCODINGS[self.part.encoding].positions(self.data, self.size)


@dataclass(frozen=True, eq=False)
class TensorSource:
    """A tensor to be stored: its entries under ``mask``, 1-D, or all of them in their shape.

    Raises:
        CheckpointError: a tensor of a layout or dtype that the format does not have; ``where`` names it.
    """

    values: Tensor
    mask: StoredMask | None
    where: str

    def __post_init__(self) -> None:
        container.check_storable(self.values, self.where)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return tuple(self.values.shape) if self.mask is None or self.mask.all else (self.mask.part.count,)

    def write(self, target: Bytes) -> None:
        """Write what is stored to ``target``, uint8, exactly as long.

        Raises:
            CheckpointError: an entry that is not stored is not zero.
        """
        bits = _BITS[self.values.itemsize]
        values = self.values.detach()
        if self.mask is None or self.mask.all:
            torch.from_numpy(target).view(bits).view(values.shape).copy_(values.view(bits))
            return
        flat = values.to("cpu", memory_format=torch.contiguous_format).reshape(-1).view(bits).numpy()
        stored = target.view(flat.dtype)
        done = 0
        for block in self.mask.positions():
            stored[done : done + block.size] = flat[block]
            done += block.size
        outside = int(np.count_nonzero(flat) - np.count_nonzero(stored))
        if outside and values.dtype.is_floating_point:
            outside = _count_nonzero(flat) - _count_nonzero(stored)
        if outside:
            raise CheckpointError(
                "the tensor is not zero outside its mask, and that would be lost",
                where=self.where,
                got=f"{outside} entries",
                remedy="set weights and optimizer state to zero where the mask is False before saving",
            )


def scatter(stored: Sequence[NDArray[Any]], mask: StoredMask) -> tuple[list[NDArray[Any]], Mask]:
    """Put the active entries of several tensors where ``mask`` has them, with zeros between.

    ``stored`` are their values as integers of their width, 1-D, one for each position; the mask is checked, and not of
    all entries. Returns for each tensor an array [size] of its dtype, and the mask, bool [size].
    """
    active, full = np.zeros(mask.size, np.bool_), [np.zeros(mask.size, bits.dtype) for bits in stored]
    done = 0
    for block in mask.positions():
        active[block] = True
        for bits, target in zip(stored, full, strict=True):
            target[block] = bits[done : done + block.size]
        done += block.size
    return full, active


def _count_nonzero(bits: NDArray[Any]) -> int:
    """How many floats, given as bits, differ from zero; -0.0 does not, NaN does."""
    # The sign is the first bit of every floating type here: shifted out, both zeros are 0 and nothing else is.
    starts = range(0, bits.size, _BLOCK)
    return sum(int(np.count_nonzero(bits[start : start + _BLOCK] << 1)) for start in starts)
