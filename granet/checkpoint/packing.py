"""Tensors -> the bytes of a file, each written straight to its final place.

A file is laid out first, which needs only the masks, and then filled tensor by tensor while a thread hashes what is
already there. So it takes the file and, where a tensor lies on another device or in another order, a copy of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from granet.checkpoint import container, integrity, schema
from granet.errors import CheckpointError
from granet.masks import codec
from granet.masks.codec import Bytes, Mask, Positions

# The integer type that stands in for every type of the same width where values are moved as bits.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_BLOCK = 2**16
"""Entries that are looked at together."""


@dataclass(frozen=True, eq=False)
class Active:
    """The ``count`` entries of a parameter of ``shape`` that are stored; ``data`` spells them, unless it is all."""

    shape: tuple[int, ...]
    encoding: str
    data: Bytes
    count: int

    @classmethod
    def of(cls, mask: Mask, shape: tuple[int, ...]) -> Active:
        """Those where ``mask``, bool [size], is True."""
        count = int(np.count_nonzero(mask))
        if count == mask.size:
            return cls(shape, schema.DENSE, np.empty(0, np.uint8), count)
        return cls(shape, *codec.encode(mask), count)

    @property
    def all(self) -> bool:
        """Whether nothing is left out."""
        return self.encoding == schema.DENSE

    def positions(self) -> Iterator[Positions]:
        """Their flat indices, in blocks."""
        return codec.ENCODINGS[self.encoding].positions(self.data, math.prod(self.shape))


@dataclass(frozen=True, eq=False)
class TensorSource:
    """A tensor to be stored: its ``active`` entries, 1-D, or all of them in their shape. ``where`` is its name."""

    values: Tensor
    active: Active | None
    where: str

    def __post_init__(self) -> None:
        tensor = self.values
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in container.DTYPES.values():
            raise CheckpointError(
                "a tensor of this kind cannot be stored",
                where=self.where,
                got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
                expected=f"a strided tensor with data, of dtype {', '.join(container.DTYPES)}",
            )

    @property
    def kind(self) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape in the file."""
        if self.active is None or self.active.all:
            return self.values.dtype, tuple(self.values.shape)
        return self.values.dtype, (self.active.count,)

    def fill(self, place: Bytes) -> None:
        """Writes what is stored to ``place``.

        Raises:
            CheckpointError: an entry that is not stored is not zero.
        """
        bits = _BITS[self.values.itemsize]
        values = self.values.detach()
        if self.active is None or self.active.all:
            torch.from_numpy(place).view(bits).view(values.shape).copy_(values.view(bits))
            return
        flat = values.to("cpu", memory_format=torch.contiguous_format).reshape(-1).view(bits).numpy()
        stored = place.view(flat.dtype)
        done = 0
        for block in self.active.positions():
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


def assemble(sources: Mapping[str, TensorSource], header: str) -> memoryview:
    """The file with these tensors and this header.

    Raises:
        CheckpointError: a tensor that cannot be stored exactly, or a header that is too long.
    """
    # Larger elements first: so each tensor lies at a multiple of its element's size, as a memory map wants it.
    names = sorted(sources, key=lambda name: (-sources[name].values.itemsize, name))
    table = {integrity.TABLE: (torch.uint8, (len(names), integrity.LENGTH))}
    tensors = {**table, **{name: sources[name].kind for name in names}}
    layout = container.lay_out(tensors, {integrity.CONTENT: integrity.UNSEALED, schema.KEY: header})
    if len(layout.header) > container.MAX_HEADER:
        raise CheckpointError(
            "progress, metrics and names together are too long for a checkpoint",
            expected=f"at most {container.MAX_HEADER} bytes of header",
        )
    file = np.empty(layout.size, np.uint8)
    file[: len(layout.header)] = np.frombuffer(layout.header, np.uint8)
    with ThreadPoolExecutor(1, "granet-hash") as pool:
        hashes = []
        for name in names:
            place = file[layout.places[name]]
            sources[name].fill(place)
            hashes.append(pool.submit(integrity.digest, place))
        file[layout.places[integrity.TABLE]] = np.frombuffer(b"".join(hash.result() for hash in hashes), np.uint8)
    integrity.seal(file[: layout.places[integrity.TABLE].stop])
    return file.data


def _count_nonzero(bits: NDArray[Any]) -> int:
    """How many floats, given as bits, differ from zero; -0.0 does not, NaN does."""
    # The sign is the first bit of every floating type here: shifted out, both zeros are 0 and nothing else is.
    starts = range(0, bits.size, _BLOCK)
    return sum(int(np.count_nonzero(bits[start : start + _BLOCK] << 1)) for start in starts)
