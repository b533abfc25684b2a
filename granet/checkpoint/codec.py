"""A checkpoint <-> the bytes of its file, as ``docs/format.md`` describes them.

What is stored of a value and what the header says of it are decided here; ``packing`` and ``reader`` move the
tensors. Values are moved as bits, so that active zeros, -0.0 and the payloads of NaNs come back as they went.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from granet.checkpoint import packing, schema
from granet.checkpoint.packing import Active, TensorSource
from granet.checkpoint.reader import File, Outline
from granet.checkpoint.value import Checkpoint, Slot
from granet.errors import CheckpointError, RecipeError
from granet.masks.codec import Bytes, Mask
from granet.recipe import Recipe

_THREADS = 2
"""Parameters that are read at the same time. More wait for the interpreter and for memory."""


def encode(checkpoint: Checkpoint) -> memoryview:
    """The file that holds ``checkpoint``. Equal values give equal bytes, wherever their tensors are.

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
        active = None
        if name in checkpoint.masks:
            mask, ever = _flat(checkpoint.masks[name]), _flat(checkpoint.explored[name])
            active = Active.of(mask, tuple(weight.shape))
            masks[name] = {"shape": list(active.shape), **_put_positions(sources, f"masks/{name}", active)}
            if np.greater(mask, ever).any():
                raise CheckpointError("a weight is active that the explored set does not have", where=name)
            if not np.array_equal(mask, ever):
                explored[name] = _put_positions(sources, f"explored/{name}", Active.of(ever, active.shape))
        sources[f"weights/{name}"] = TensorSource(weight, active, name)
        if name in checkpoint.optimizer:
            optimizer[name] = _put_slots(sources, name, checkpoint.optimizer[name], active)
    for name, buffer in checkpoint.buffers.items():
        sources[f"buffers/{name}"] = TensorSource(buffer, None, name)
    for name, accumulator in checkpoint.accumulators.items():
        sources[f"accumulators/{name}"] = TensorSource(accumulator, None, f"accumulator of {name}")
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
    return packing.assemble(sources, header)


def decode(data: Bytes, where: str) -> Checkpoint:
    """The checkpoint in the bytes of a file; its tensors are on the CPU, contiguous, and own their memory.

    Args:
        data: the file, uint8 [n]; may be a memory map.
        where: the name of the file, for messages.

    Raises:
        CheckpointError: anything but a sound checkpoint. What is allocated before that is found out is bounded by
            the length of the file: at most 255 elements per byte of a mask, for the weight and each slot.
    """
    return _checkpoint(File.open(data, where))


def decode_outline(data: Bytes, where: str) -> Checkpoint:
    """As ``decode``, but all tensors except masks and explored sets are on the meta device: shapes without values.

    The hashes of all tensors are checked nevertheless.
    """
    return _checkpoint(Outline.open(data, where))


def decode_weights(data: Bytes, where: str) -> dict[str, Tensor]:
    """Weights in their full shapes and buffers, in this order: a plain state dict. As ``decode`` otherwise."""
    file = File.open(data, where)
    weights = {name: file.weight(name) for name in file.header.weights}
    return weights | {name: file.whole(f"buffers/{name}") for name in file.header.buffers}


def _flat(mask: Tensor) -> Mask:
    flat: Mask = mask.detach().cpu().reshape(-1).numpy()
    return flat


def _put_positions(sources: dict[str, TensorSource], name: str, active: Active) -> dict[str, Any]:
    if not active.all:
        sources[name] = TensorSource(torch.from_numpy(active.data), None, name)
    return {"encoding": active.encoding, "count": active.count}


def _put_slots(
    sources: dict[str, TensorSource], name: str, slots: dict[str, Slot], active: Active | None
) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for slot, value in slots.items():
        where = f"{slot} of {name}"
        if isinstance(value, Tensor):
            masked = active is not None and value.dim() > 0 and value.shape == active.shape
            kinds[slot] = schema.MASKED if masked else schema.WHOLE
            sources[f"optimizer/{slot}/{name}"] = TensorSource(value, active if masked else None, where)
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


def _checkpoint(file: File) -> Checkpoint:
    header = file.header
    try:
        recipe = Recipe.from_dict(header.recipe)
    except RecipeError as error:
        raise CheckpointError(f"the recipe in the header is not valid: {error}", where=file.where) from None
    # NumPy works outside the interpreter's lock. Errors come in the order of the network, whoever is first.
    with ThreadPoolExecutor(_THREADS, "granet-load") as pool:
        parameters = dict(zip(header.weights, pool.map(file.parameter, header.weights), strict=True))
    return Checkpoint(
        weights={name: parameter.weight for name, parameter in parameters.items()},
        masks={name: parameter.mask for name, parameter in parameters.items() if parameter.mask is not None},
        buffers={name: file.whole(f"buffers/{name}") for name in header.buffers},
        explored={name: parameter.explored for name, parameter in parameters.items() if parameter.explored is not None},
        optimizer={name: parameter.slots for name, parameter in parameters.items() if name in header.optimizer},
        accumulators={name: file.whole(f"accumulators/{name}") for name in header.accumulators},
        recipe=recipe,
        step=header.step,
        network=header.network,
        progress=header.progress,
        metrics=header.metrics,
        stored_hash=file.content_hash,
    )
