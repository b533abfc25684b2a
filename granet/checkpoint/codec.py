"""Encode a checkpoint as bytes and decode it, as ``docs/format.md`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from granet.checkpoint import container, extra_state, header, integrity
from granet.checkpoint.reader import File, Outline
from granet.checkpoint.tensors import StoredMask, TensorSource
from granet.checkpoint.value import Checkpoint, Slot
from granet.errors import CheckpointError, RecipeError
from granet.masks.codec import Bytes, Mask
from granet.recipe import Recipe

_THREADS = 2
"""Parameters that are read at the same time. More wait for the interpreter and for memory."""


def encode(checkpoint: Checkpoint) -> memoryview:
    """Return the file that holds ``checkpoint``. Equal values give equal bytes, wherever their tensors are.

    The file shares no memory with the checkpoint, whose tensors may be those of a training in progress: on a GPU, in
    any memory format.

    Raises:
        CheckpointError: a value that cannot be stored exactly: a weight or an optimizer slot that is not zero
            outside its mask, a dtype without a name in the format, a number that is not finite in a JSON part.
    """
    sources: dict[str, TensorSource] = {}
    masks: dict[str, dict[str, Any]] = {}
    explored: dict[str, dict[str, Any]] = {}
    optimizer: dict[str, dict[str, Any]] = {}
    for name, weight in checkpoint.weights.items():
        stored = None
        if name in checkpoint.masks:
            mask, ever = _flat(checkpoint.masks[name]), _flat(checkpoint.explored[name])
            stored = StoredMask.encode(mask, tuple(weight.shape))
            masks[name] = _add_mask(sources, f"masks/{name}", stored)
            if np.greater(mask, ever).any():
                raise CheckpointError("a weight is active that the explored set does not have", where=name)
            if not np.array_equal(mask, ever):
                explored[name] = _add_mask(sources, f"explored/{name}", StoredMask.encode(ever, stored.part.shape))
                del explored[name]["shape"]  # that of the mask
        sources[f"weights/{name}"] = TensorSource(weight, stored, name)
        if name in checkpoint.optimizer:
            optimizer[name] = _add_slots(sources, name, checkpoint.optimizer[name], stored)
    sources |= {f"buffers/{name}": TensorSource(buffer, None, name) for name, buffer in checkpoint.buffers.items()}
    for name, accumulator in checkpoint.accumulators.items():
        sources[f"accumulators/{name}"] = TensorSource(accumulator, None, f"accumulator of {name}")
    extra: dict[str, Any] = {}
    for name, value in checkpoint.extra_state.items():
        extra[name], tensors = extra_state.encode(value, name)
        sources |= {f"extra/{name}/{n}": TensorSource(tensor, None, name) for n, tensor in enumerate(tensors)}
    text = header.render(
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
            **({"extra_state": extra} if extra else {}),
        }
    )
    return _assemble(sources, text)


def decode(data: Bytes, where: str, *, outline: bool = False) -> Checkpoint:
    """Return the checkpoint in the bytes of a file; its tensors are on the CPU, contiguous, and own their memory.

    Of an ``outline`` only masks and explored sets get values, all other tensors are on the meta device. The hashes of
    all tensors are checked nevertheless. ``where`` is the name of the file, for messages.

    Raises:
        CheckpointError: anything but a sound checkpoint. What is allocated before that is found out is bounded by
            the length of the file: at most 255 elements per byte of a mask, for the weight and each slot.
    """
    file = (Outline if outline else File).open(data, where)
    fields = file.header
    try:
        recipe = Recipe.from_dict(fields.recipe)
    except RecipeError as error:
        raise CheckpointError(f"the recipe in the header is not valid: {error}", where=file.where) from None
    # NumPy works outside the interpreter's lock. Errors come in the order of the network, whoever is first.
    with ThreadPoolExecutor(_THREADS, "granet-load") as pool:
        parameters = dict(zip(fields.weights, pool.map(file.parameter, fields.weights), strict=True))
    return Checkpoint(
        weights={name: parameter.weight for name, parameter in parameters.items()},
        masks={name: parameter.mask for name, parameter in parameters.items() if parameter.mask is not None},
        buffers={name: file.whole(f"buffers/{name}") for name in fields.buffers},
        explored={name: parameter.explored for name, parameter in parameters.items() if parameter.explored is not None},
        optimizer={name: parameter.slots for name, parameter in parameters.items() if name in fields.optimizer},
        accumulators={name: file.whole(f"accumulators/{name}") for name in fields.accumulators},
        recipe=recipe,
        step=fields.step,
        network=fields.network,
        progress=fields.progress,
        metrics=fields.metrics,
        extra_state={name: file.extra_state(name) for name in fields.extra_state},
        stored_hash=file.content_hash,
    )


def decode_weights(data: Bytes, where: str) -> dict[str, Any]:
    """Decode weights, in their full shapes, and buffers, in this order, and extra state: a plain state dict."""
    file = File.open(data, where)
    weights = {name: file.weight(name) for name in file.header.weights}
    buffers = {name: file.whole(f"buffers/{name}") for name in file.header.buffers}
    extra = {name: file.extra_state(name) for name in file.header.extra_state if name.endswith(extra_state.SUFFIX)}
    return weights | buffers | extra


def _flat(mask: Tensor) -> Mask:
    flat: Mask = mask.detach().cpu().reshape(-1).numpy()
    return flat


def _add_mask(sources: dict[str, TensorSource], name: str, mask: StoredMask) -> dict[str, Any]:
    """Add the positions of a mask to the tensors to store, if it needs any; return its part of the header."""
    if not mask.all:
        sources[name] = TensorSource(torch.from_numpy(mask.data), None, name)
    return asdict(mask.part)


def _add_slots(
    sources: dict[str, TensorSource], name: str, slots: dict[str, Slot], mask: StoredMask | None
) -> dict[str, Any]:
    """Add the tensors that an optimizer has for a parameter; return their part of the header."""
    part: dict[str, Any] = {}
    for slot, value in slots.items():
        where = f"{slot} of {name}"
        if isinstance(value, Tensor):
            masked = mask is not None and value.dim() > 0 and value.shape == mask.part.shape
            part[slot] = header.MASKED if masked else header.WHOLE
            sources[f"optimizer/{slot}/{name}"] = TensorSource(value, mask if masked else None, where)
        elif value is None or isinstance(value, bool | int | float):
            part[slot] = value
        else:
            raise CheckpointError(
                "optimizer state of this type cannot be stored",
                where=where,
                got=type(value).__name__,
                expected="a tensor, a number or None",
            )
    return part


def _assemble(sources: Mapping[str, TensorSource], text: str) -> memoryview:
    """Return the file with these tensors and this header.

    It is laid out first, which needs only the masks, and then filled tensor by tensor while a thread hashes what is
    already there. So it takes the file and, where a tensor lies on another device or in another order, a copy of one.
    """
    # Larger elements first: so each tensor lies at a multiple of its element's size, as a memory map wants it.
    names = sorted(sources, key=lambda name: (-sources[name].values.itemsize, name))
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    tensors = {integrity.TABLE: (torch.uint8, (len(names), integrity.LENGTH))}
    tensors |= {name: (sources[name].values.dtype, sources[name].stored_shape) for name in names}
    layout = container.lay_out(tensors, {integrity.CONTENT: integrity.UNSEALED, header.KEY: text})
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
            target = file[layout.places[name]]
            sources[name].write(target)
            hashes.append(pool.submit(integrity.digest, target))
        file[layout.places[integrity.TABLE]] = np.frombuffer(b"".join(hash.result() for hash in hashes), np.uint8)
    integrity.seal(file[: layout.places[integrity.TABLE].stop])
    return file.data
