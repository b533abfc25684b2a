"""A checkpoint <-> the bytes of its file.

Tensors in the file, by name (see :mod:`granet.checkpoint.schema` for the header that goes with them):

    weights/NAME           the parameter; of a masked one only the active weights, 1-D in flat index order
    masks/NAME             uint8: the positions of the active weights, in an encoding of ``sparse_codec``
    explored/NAME          uint8: the positions that were ever active, unless they are all or those of the mask
    buffers/NAME           the buffer
    optimizer/SLOT/NAME    the slot; shaped like a masked parameter it is stored as its weights are
    accumulators/NAME      the accumulator, whole: it is not zero at inactive positions

Where all weights are active, the encoding is ``dense``: there is no ``masks/NAME``, and values keep their shape.
Values are moved as bits, so that active zeros, -0.0 and the payloads of NaNs come back as they went.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from granet import sparse_codec
from granet.checkpoint import container, schema
from granet.checkpoint.canonical import short
from granet.checkpoint.container import Stored
from granet.checkpoint.value import Checkpoint, Slot
from granet.errors import CheckpointError, RecipeError
from granet.recipe import Recipe
from granet.sparse_codec import Bytes, Positions

# The integer type that stands in for every type of the same width where values are moved as bits.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode(checkpoint: Checkpoint) -> bytes:
    """The file that holds ``checkpoint``. Equal values give equal bytes, whatever their devices and memory formats.

    Raises:
        CheckpointError: a value that cannot be stored exactly: a weight or an optimizer slot that is not zero
            outside its mask, a dtype without a name in the format, a number that is not finite in a JSON part.
    """
    tensors: dict[str, Tensor] = {}
    masks: dict[str, dict[str, Any]] = {}
    explored: dict[str, dict[str, Any]] = {}
    optimizer: dict[str, dict[str, Any]] = {}
    for name, weight in checkpoint.weights.items():
        active = None
        if name in checkpoint.masks:
            mask, ever = _flat(checkpoint.masks[name]), _flat(checkpoint.explored[name])
            active = _Active(tuple(weight.shape), _positions(mask))
            masks[name] = _put_positions(tensors, f"masks/{name}", active.positions, mask.size)
            masks[name]["shape"] = list(active.shape)
            explored[name] = _put_explored(tensors, name, ever, mask)
        tensors[f"weights/{name}"] = _select(weight, active, name)
        if name in checkpoint.optimizer:
            optimizer[name] = _put_slots(tensors, name, checkpoint.optimizer[name], active)
    for name, buffer in checkpoint.buffers.items():
        tensors[f"buffers/{name}"] = _select(buffer, None, name)
    for name, accumulator in checkpoint.accumulators.items():
        tensors[f"accumulators/{name}"] = _select(accumulator, None, f"accumulator of {name}")

    header = schema.render(
        {
            "step": checkpoint.step,
            "recipe": checkpoint.recipe.as_dict(),
            "network": asdict(checkpoint.network),
            "progress": checkpoint.progress,
            "metrics": checkpoint.metrics,
            "weights": list(checkpoint.weights),
            "buffers": list(checkpoint.buffers),
            "masks": masks,
            "explored": explored,
            "accumulators": list(checkpoint.accumulators),
            "optimizer": optimizer,
        }
    )
    data = safetensors.torch.save(_unshared(tensors), {schema.KEY: header})
    if container.header_length(data) > container.MAX_HEADER:
        raise CheckpointError(
            "progress, metrics and names together are too long for a checkpoint",
            expected=f"at most {container.MAX_HEADER} bytes of header",
        )
    return data


def decode(data: Bytes, where: str) -> Checkpoint:
    """The checkpoint in the bytes of a file; its tensors are on the CPU, contiguous, and own their memory.

    Args:
        data: the file, uint8 [n]; may be a memory map.
        where: the name of the file, for messages.

    Raises:
        CheckpointError: anything but a sound checkpoint. What is allocated before that is found out is bounded by
            the length of the file: at most 255 elements per byte of a mask, for the weight and each slot.
    """
    file = _File.open(data, where)
    header = file.header
    try:
        recipe = Recipe.from_dict(header.recipe)
    except RecipeError as error:
        raise CheckpointError(f"the recipe in the header is not valid: {error}", where=where) from None
    weights: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    explored: dict[str, Tensor] = {}
    optimizer: dict[str, dict[str, Slot]] = {}
    for name in header.weights:
        active = file.active(name)
        weights[name] = file.tensor(f"weights/{name}", active)
        if active is not None:
            masks[name], explored[name] = file.masks(name, active)
        if name in header.optimizer:
            optimizer[name] = file.slots(name, active)
    return Checkpoint(
        weights=weights,
        masks=masks,
        buffers={name: file.tensor(f"buffers/{name}") for name in header.buffers},
        explored=explored,
        optimizer=optimizer,
        accumulators={name: file.tensor(f"accumulators/{name}") for name in header.accumulators},
        recipe=recipe,
        step=header.step,
        network=header.network,
        progress=header.progress,
        metrics=header.metrics,
    )


def decode_weights(data: Bytes, where: str) -> dict[str, Tensor]:
    """Weights in their full shapes and buffers, in this order: a plain state dict. As ``decode`` otherwise."""
    file = _File.open(data, where)
    weights = {name: file.tensor(f"weights/{name}", file.active(name)) for name in file.header.weights}
    return weights | {name: file.tensor(f"buffers/{name}") for name in file.header.buffers}


@dataclass(frozen=True, eq=False)
class _Active:
    """Which entries of a masked parameter of ``shape`` are stored: those at ``positions``, or all if it is None."""

    shape: tuple[int, ...]
    positions: Positions | None


# Encoding


def _flat(mask: Tensor) -> NDArray[np.bool_]:
    flat: NDArray[np.bool_] = mask.detach().cpu().reshape(-1).numpy()
    return flat


def _positions(mask: NDArray[np.bool_]) -> Positions | None:
    return None if mask.all() else np.flatnonzero(mask).astype(np.int64, copy=False)


def _put_positions(tensors: dict[str, Tensor], name: str, positions: Positions | None, size: int) -> dict[str, Any]:
    if positions is None:
        return {"encoding": schema.DENSE, "count": size}
    encoding, data = sparse_codec.encode(positions, size)
    tensors[name] = torch.from_numpy(data)
    return {"encoding": encoding, "count": positions.size}


def _put_explored(
    tensors: dict[str, Tensor], name: str, explored: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> dict[str, Any]:
    if np.greater(mask, explored).any():
        raise CheckpointError("a weight is active that the explored set does not have", where=name)
    if np.array_equal(explored, mask):
        return {"encoding": schema.SAME, "count": int(np.count_nonzero(mask))}
    return _put_positions(tensors, f"explored/{name}", _positions(explored), explored.size)


def _put_slots(tensors: dict[str, Tensor], name: str, slots: dict[str, Slot], active: _Active | None) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for slot, value in slots.items():
        where = f"{slot} of {name}"
        if isinstance(value, Tensor):
            masked = active is not None and value.dim() > 0 and value.shape == active.shape
            kinds[slot] = schema.MASKED if masked else schema.WHOLE
            tensors[f"optimizer/{slot}/{name}"] = _select(value, active if masked else None, where)
        elif value is None or isinstance(value, bool | int | float):
            kinds[slot] = value
        else:
            raise CheckpointError(
                "optimizer state of this type cannot be stored",
                where=where,
                got=type(value).__name__,
                expected="a tensor, a number or None",
            )
    return kinds


def _select(tensor: Tensor, active: _Active | None, where: str) -> Tensor:
    """The active entries, 1-D, or all of them in their shape; contiguous, on the CPU."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in container.DTYPES.values():
        raise CheckpointError(
            "a tensor of this kind cannot be stored",
            where=where,
            got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
            expected=f"a strided tensor with data, of dtype {', '.join(container.DTYPES)}",
        )
    tensor = tensor.detach().cpu()
    if active is None or active.positions is None:
        return tensor.contiguous()
    bits = tensor.reshape(-1).view(_BITS[tensor.itemsize]).numpy()
    values = bits[active.positions]
    outside = _count_nonzero(bits, tensor.dtype) - _count_nonzero(values, tensor.dtype)
    if outside:
        raise CheckpointError(
            "the tensor is not zero outside its mask, and that would be lost",
            where=where,
            got=f"{outside} entries",
            remedy="set weights and optimizer state to zero where the mask is False before saving",
        )
    return _tensor(values, tensor.dtype, (-1,))


def _count_nonzero(bits: NDArray[Any], dtype: torch.dtype) -> int:
    """How many entries differ from zero; -0.0 does not, NaN does."""
    # The sign is the first bit of every floating type here: shifted out, both zeros are 0 and nothing else is.
    return int(np.count_nonzero(bits << 1 if dtype.is_floating_point else bits))


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without any two in one storage, which safetensors refuses."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


# Decoding


def _mask(positions: Positions | None, size: int) -> NDArray[np.bool_]:
    if positions is None:
        return np.ones(size, np.bool_)
    mask = np.zeros(size, np.bool_)
    mask[positions] = True
    return mask


def _tensor(bits: NDArray[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(bits).view(dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class _File:
    """A file whose header and tensors agree in names, dtypes and shapes. Values are checked when they are read."""

    header: schema.Header
    stored: dict[str, Stored]
    where: str

    @classmethod
    def open(cls, data: Bytes, where: str) -> _File:
        stored, metadata = container.read(data, where)
        if schema.KEY not in metadata:
            raise CheckpointError(
                "a safetensors file, but not a granet checkpoint",
                where=where,
                remedy="name a checkpoint that granet wrote, such as last.safetensors",
            )
        header = schema.parse(metadata[schema.KEY], where=where)
        schema.check_tensors(header, stored, where)
        return cls(header, stored, where)

    def active(self, name: str) -> _Active | None:
        """What is stored of a parameter; None when it has no mask."""
        if name not in self.header.masks:
            return None
        part = self.header.masks[name]
        return _Active(part.shape, self._positions(f"masks/{name}", part, math.prod(part.shape)))

    def masks(self, name: str, active: _Active) -> tuple[Tensor, Tensor]:
        """The mask and the explored set of a masked parameter."""
        part, stored, size = self.header.explored[name], f"explored/{name}", math.prod(active.shape)
        mask = _mask(active.positions, size)
        if part.encoding == schema.SAME:
            explored = mask.copy()
        else:
            explored = _mask(self._positions(stored, part, size), size)
            if np.greater(mask, explored).any():
                raise CheckpointError("an active weight is missing from the explored set", where=self._name(stored))
        return torch.from_numpy(mask).reshape(active.shape), torch.from_numpy(explored).reshape(active.shape)

    def slots(self, name: str, active: _Active | None) -> dict[str, Slot]:
        return {
            slot: self.tensor(f"optimizer/{slot}/{name}", active if kind == schema.MASKED else None)
            if isinstance(kind, str)
            else kind
            for slot, kind in self.header.optimizer[name].items()
        }

    def tensor(self, name: str, active: _Active | None = None) -> Tensor:
        """A stored tensor; with ``active``, spread over its shape with zeros in between."""
        stored = self.stored[name]
        if stored.dtype == torch.bool and stored.data.max(initial=0) > 1:
            raise CheckpointError("a bool that is neither 0 nor 1", where=self._name(name))
        bits = stored.data.view(f"i{stored.dtype.itemsize}")
        if active is None or active.positions is None:
            return _tensor(bits.copy(), stored.dtype, stored.shape)
        spread = np.zeros(math.prod(active.shape), bits.dtype)
        spread[active.positions] = bits
        return _tensor(spread, stored.dtype, active.shape)

    def _positions(self, name: str, part: schema.MaskPart | schema.ExploredPart, size: int) -> Positions | None:
        if part.encoding == schema.DENSE:
            return None
        try:
            positions = sparse_codec.decode(part.encoding, self.stored[name].data, size)
        except ValueError as error:
            raise CheckpointError(f"the positions are not sound: {error}", where=self._name(name)) from None
        if positions.size != part.count:
            raise CheckpointError(
                "the number of positions is not that of the header",
                where=self._name(name),
                got=positions.size,
                expected=part.count,
            )
        return positions

    def _name(self, tensor: str) -> str:
        return f"{self.where}, tensor {short(tensor)}"
