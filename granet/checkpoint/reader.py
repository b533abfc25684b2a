"""Read an opened file: the header is checked, and each tensor against its hash before a value is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from granet.checkpoint import container, extra_state, header, integrity
from granet.checkpoint.canonical import short
from granet.checkpoint.container import StoredTensor
from granet.checkpoint.header import Header, MaskPart
from granet.checkpoint.tensors import StoredMask, scatter
from granet.checkpoint.value import Slot
from granet.errors import CheckpointError
from granet.masks.codec import Bytes, Mask


class Parameter(NamedTuple):
    """A parameter in its full shape, its optimizer slots, and its mask and explored set if it is masked."""

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

    header: Header
    stored: Mapping[str, StoredTensor]
    hashes: Mapping[str, bytes]
    content_hash: str
    where: str

    @classmethod
    def open(cls, data: Bytes, where: str) -> File:
        """Open the file with these bytes, uint8 [n]; ``where`` is its name, for messages.

        Raises:
            CheckpointError: anything but a checkpoint with a sound header.
        """
        stored, metadata = container.read(data, where)
        if header.KEY not in metadata:
            raise CheckpointError(
                f"a safetensors file, but not a granet checkpoint: its header has no entry {header.KEY!r}",
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
        found = header.parse(metadata[header.KEY], where=where)
        tensors = {name: stored[name] for name in hashes}  # all but the table
        header.check_tensors(found, tensors, where)
        return cls(found, tensors, hashes, content_hash, where)

    def name(self, tensor: str) -> str:
        """Return what messages call the tensor."""
        return f"{self.where}, tensor {short(tensor)}"

    def data(self, tensor: str) -> Bytes:
        """Return the bytes of a tensor, a view, checked against its hash."""
        data = self.stored[tensor].data
        integrity.check(data, self.hashes[tensor], self.name(tensor))
        return data

    def bits(self, tensor: str) -> NDArray[Any]:
        """Return the values of a tensor as integers of their width, 1-D, a view."""
        self.data(tensor)
        return self.stored[tensor].bits(self.name(tensor))

    def whole(self, tensor: str) -> Tensor:
        """Return a tensor as it is stored."""
        self.data(tensor)
        return self.stored[tensor].tensor(self.name(tensor))

    def weight(self, name: str) -> Tensor:
        """Return a parameter in its full shape."""
        return self._full(name, [f"weights/{name}"])[0][0]

    def extra_state(self, name: str) -> Any:
        """Return a value of extra state."""
        part = self.header.extra_state[name]
        tensors = [
            torch.from_numpy(self.data(tensor).copy()) if kind == "bytes" else self.whole(tensor)
            for tensor, kind in ((f"extra/{name}/{number}", kind) for number, kind in enumerate(part.tensors))
        ]
        return extra_state.decode(part.node, tensors)

    def parameter(self, name: str) -> Parameter:
        """Return all that belongs to a parameter."""
        slots: dict[str, Any] = dict(self.header.optimizer.get(name, {}))
        masked = [slot for slot, value in slots.items() if value == header.MASKED]
        tensors = [f"weights/{name}", *(f"optimizer/{slot}/{name}" for slot in masked)]
        (weight, *values), mask = self._full(name, tensors)
        slots |= {slot: self.whole(f"optimizer/{slot}/{name}") for slot in slots if slots[slot] == header.WHOLE}
        slots |= zip(masked, values, strict=True)
        if mask is None:
            return Parameter(weight, slots, None, None)
        explored = self.explored(name, mask)
        explored = explored.copy() if explored is mask else explored
        masks = (torch.from_numpy(flat).reshape(self.header.masks[name].shape) for flat in (mask, explored))
        return Parameter(weight, slots, *masks)

    def mask(self, name: str) -> Mask:
        """Return the mask of a parameter that has one, bool [size]."""
        return self._stored_mask(f"masks/{name}", self.header.masks[name]).decode()

    def explored(self, name: str, mask: Mask) -> Mask:
        """Return the explored set of a parameter with this mask, bool [size]; ``mask`` itself where it is the same."""
        if name not in self.header.explored:
            return mask
        tensor = f"explored/{name}"
        explored = self._stored_mask(tensor, self.header.explored[name]).decode()
        if np.greater(mask, explored).any():
            raise CheckpointError("an active weight is missing from the explored set", where=self.name(tensor))
        return explored

    def _stored_mask(self, tensor: str, part: MaskPart) -> StoredMask:
        """Return a mask with its positions checked."""
        mask = StoredMask(part, np.empty(0, np.uint8) if part.encoding == header.DENSE else self.data(tensor))
        mask.check(self.name(tensor))
        return mask

    def _full(self, name: str, tensors: Sequence[str]) -> tuple[list[Tensor], Mask | None]:
        """Return tensors of a parameter's active entries in its full shape, and its mask if it has one."""
        part = self.header.masks.get(name)
        if part is None or part.encoding == header.DENSE:
            return [self.whole(tensor) for tensor in tensors], None if part is None else self.mask(name)
        stored = [self.bits(tensor) for tensor in tensors]
        full, mask = scatter(stored, self._stored_mask(f"masks/{name}", part))
        dtypes = (self.stored[tensor].dtype for tensor in tensors)
        return [
            torch.from_numpy(bits).view(dtype).reshape(part.shape) for bits, dtype in zip(full, dtypes, strict=True)
        ], mask


class Outline(File):
    """An opened checkpoint file whose tensors come without values, on the meta device; hashes are still checked."""

    def whole(self, tensor: str) -> Tensor:
        """Return a tensor as it is stored, without its values."""
        return self._empty(tensor, self.stored[tensor].shape)

    def _full(self, name: str, tensors: Sequence[str]) -> tuple[list[Tensor], Mask | None]:
        part = self.header.masks.get(name)
        shapes = (self.stored[tensor].shape if part is None else part.shape for tensor in tensors)
        empty = [self._empty(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True)]
        return empty, None if part is None else self.mask(name)

    def _empty(self, tensor: str, shape: tuple[int, ...]) -> Tensor:
        self.data(tensor)
        return torch.empty(shape, dtype=self.stored[tensor].dtype, device="meta")
