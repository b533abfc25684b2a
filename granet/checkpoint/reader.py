"""A file, opened: what its header says is checked, and each tensor against its hash before a value is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from granet.checkpoint import container, integrity, schema
from granet.checkpoint.canonical import short
from granet.checkpoint.container import StoredTensor
from granet.checkpoint.value import Slot
from granet.errors import CheckpointError
from granet.masks import codec
from granet.masks.codec import Bytes, Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameter:
    """A parameter in its full shape, what the optimizer remembers of it, and its mask and explored set if masked."""

    weight: Tensor
    slots: dict[str, Slot]
    mask: Tensor | None
    explored: Tensor | None


@dataclass(frozen=True, eq=False)
class File:
    """A file whose header has its hash, and whose header and tensors agree in names, dtypes and shapes.

    Tensors that are read are on the CPU, contiguous, and own their memory. The bytes behind them are a view of the
    file, so that of a memory map only what is asked for is read.

    Raises, in every method that reads a tensor:
        CheckpointError: the tensor does not have its hash, or contradicts the header.
    """

    header: schema.Header
    stored: Mapping[str, StoredTensor]
    hashes: Mapping[str, bytes]
    content_hash: str
    where: str

    @classmethod
    def open(cls, data: Bytes, where: str) -> File:
        """The file with these bytes, uint8 [n]; ``where`` is its name, for messages.

        Raises:
            CheckpointError: anything but a checkpoint with a sound header.
        """
        stored, metadata = container.read(data, where)
        if schema.KEY not in metadata:
            raise CheckpointError(
                f"a safetensors file, but not a granet checkpoint: its header has no entry {schema.KEY!r}",
                where=where,
                remedy="name a checkpoint that granet wrote, such as last.safetensors",
            )
        names = list(stored)
        table = stored.get(integrity.TABLE)
        expected = (torch.uint8, (len(names) - 1, integrity.LENGTH))
        if table is None or names[0] != integrity.TABLE or (table.dtype, table.shape) != expected:
            raise CheckpointError(
                "the file does not begin with the hashes of its tensors; another program wrote it, or it is damaged",
                where=f"{where}, header",
                remedy="use the file that granet wrote",
            )
        prefix = data[: 8 + container.header_length(data) + table.data.size]
        content_hash = integrity.check_seal(prefix, where)
        rows = table.data.reshape(-1, integrity.LENGTH)
        hashes = {name: row.tobytes() for name, row in zip(names[1:], rows, strict=True)}
        header = schema.parse(metadata[schema.KEY], where=where)
        tensors = {name: stored[name] for name in hashes}  # all but the table
        schema.check_tensors(header, tensors, where)
        return cls(header, tensors, hashes, content_hash, where)

    def name(self, tensor: str) -> str:
        """The tensor, for messages."""
        return f"{self.where}, tensor {short(tensor)}"

    def data(self, tensor: str) -> Bytes:
        """The bytes of a tensor, a view, once they have the hash they must have."""
        data = self.stored[tensor].data
        integrity.check(data, self.hashes[tensor], self.name(tensor))
        return data

    def whole(self, tensor: str) -> Tensor:
        """A tensor as it is stored."""
        stored = self.stored[tensor]
        return _tensor(self.bits(tensor).copy(), stored.dtype, stored.shape)

    def weight(self, name: str) -> Tensor:
        """A parameter in its full shape."""
        return self._spread(name, [f"weights/{name}"])[0][0]

    def parameter(self, name: str) -> Parameter:
        """All that belongs to a parameter."""
        kinds = self.header.optimizer.get(name, {})
        masked = [slot for slot, kind in kinds.items() if kind == schema.MASKED]
        tensors = [f"weights/{name}", *(f"optimizer/{slot}/{name}" for slot in masked)]
        (weight, *values), mask = self._spread(name, tensors)
        spread = dict(zip(masked, values, strict=True))
        slots: dict[str, Slot] = {}
        for slot, kind in kinds.items():
            if isinstance(kind, str):
                slots[slot] = spread[slot] if slot in spread else self.whole(f"optimizer/{slot}/{name}")
            else:
                slots[slot] = kind
        if mask is None:
            return Parameter(weight=weight, slots=slots, mask=None, explored=None)
        explored = self.explored(name, mask)
        shape = self.header.masks[name].shape
        return Parameter(
            weight=weight,
            slots=slots,
            mask=torch.from_numpy(mask).reshape(shape),
            explored=torch.from_numpy(explored.copy() if explored is mask else explored).reshape(shape),
        )

    def mask(self, name: str) -> Mask:
        """The mask of a parameter that has one, bool [size]."""
        part = self.header.masks[name]
        return self._decode(f"masks/{name}", part.encoding, part.count, math.prod(part.shape))

    def explored(self, name: str, mask: Mask) -> Mask:
        """The explored set of a parameter with this mask, bool [size]; ``mask`` itself where it is the same."""
        part = self.header.explored.get(name)
        if part is None:
            return mask
        tensor = f"explored/{name}"
        explored = self._decode(tensor, part.encoding, part.count, mask.size)
        if np.greater(mask, explored).any():
            raise CheckpointError("an active weight is missing from the explored set", where=self.name(tensor))
        return explored

    def _spread(self, name: str, tensors: Sequence[str]) -> tuple[list[Tensor], Mask | None]:
        """Tensors that hold the active entries of a parameter, with zeros between them, and its mask if it has one."""
        part = self.header.masks.get(name)
        if part is None or part.encoding == schema.DENSE:
            whole = [self.whole(tensor) for tensor in tensors]
            return whole, None if part is None else self.mask(name)
        size = math.prod(part.shape)
        packed = [self.bits(tensor) for tensor in tensors]
        self._check_positions(f"masks/{name}", part.encoding, part.count, size)
        mask, spread = np.zeros(size, np.bool_), [np.zeros(size, bits.dtype) for bits in packed]
        done = 0
        for block in codec.ENCODINGS[part.encoding].positions(self.stored[f"masks/{name}"].data, size):
            mask[block] = True
            for bits, target in zip(packed, spread, strict=True):
                target[block] = bits[done : done + block.size]
            done += block.size
        dtypes = (self.stored[tensor].dtype for tensor in tensors)
        return [_tensor(target, dtype, part.shape) for target, dtype in zip(spread, dtypes, strict=True)], mask

    def bits(self, tensor: str) -> NDArray[Any]:
        """The values of a tensor as integers of their width, 1-D, a view."""
        data, dtype = self.data(tensor), self.stored[tensor].dtype
        if dtype == torch.bool and data.max(initial=0) > 1:
            raise CheckpointError("a bool that is neither 0 nor 1", where=self.name(tensor))
        return data.view(f"i{dtype.itemsize}")

    def _decode(self, tensor: str, encoding: str, count: int, size: int) -> Mask:
        if encoding == schema.DENSE:
            return np.ones(size, np.bool_)
        self._check_positions(tensor, encoding, count, size)
        return codec.ENCODINGS[encoding].decode(self.stored[tensor].data, size)

    def _check_positions(self, tensor: str, encoding: str, count: int, size: int) -> None:
        try:
            found = codec.count(encoding, self.data(tensor), size)
        except ValueError as error:
            raise CheckpointError(f"the positions are not sound: {error}", where=self.name(tensor)) from None
        if found != count:
            raise CheckpointError(
                "the number of positions is not that of the header",
                where=self.name(tensor),
                got=found,
                expected=count,
            )


class Outline(File):
    """The same, but tensors that are read are on the meta device: only their hashes are computed."""

    def whole(self, tensor: str) -> Tensor:
        """A tensor as it is stored, without its values."""
        return self._empty(tensor, self.stored[tensor].shape)

    def _spread(self, name: str, tensors: Sequence[str]) -> tuple[list[Tensor], Mask | None]:
        part = self.header.masks.get(name)
        shapes = (self.stored[tensor].shape if part is None else part.shape for tensor in tensors)
        empty = [self._empty(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True)]
        return empty, None if part is None else self.mask(name)

    def _empty(self, tensor: str, shape: tuple[int, ...]) -> Tensor:
        self.data(tensor)
        return torch.empty(shape, dtype=self.stored[tensor].dtype, device="meta")


def _tensor(bits: NDArray[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(bits).view(dtype).reshape(shape)
