"""A sparsifier's state in another library's checkpoint: text, numbers and tensors, one bit a mask entry.

However the host stores it, it is checked before it is used: its form, that it belongs to this method, seed and number
of steps, and that no weight outside its masks is non-zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from granet.errors import CheckpointError, UsageError
from granet.masks.mapping import Masks
from granet.sparsifier import Sparsifier

FORMAT = 1
"""Of the state; another number is refused."""


def pack(sparsifier: Sparsifier) -> dict[str, Any]:
    """Return the state of ``sparsifier``: copies, on the CPU.

    Returns:
        ``format`` and ``step``, whole numbers; ``settings``, JSON text of the method, seed and total steps;
        ``shapes``, a list for each layer; ``masks`` and ``explored``, uint8 [ceil(weights / 8)] for each layer, the
        first weight in the lowest bit; ``momenta``, tensors shaped like their weights, for some methods only.
    """
    return {
        "format": FORMAT,
        "step": sparsifier.steps,
        "settings": json.dumps(_settings(sparsifier), sort_keys=True),
        "shapes": {name: list(mask.shape) for name, mask in sparsifier.masks.items()},
        "masks": _bits(sparsifier.masks),
        "explored": _bits(sparsifier.explored),
        "momenta": {name: tensor.detach().cpu().clone() for name, tensor in sparsifier.momenta.items()},
    }


@torch.no_grad()
def unpack_into(
    sparsifier: Sparsifier, state: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], *, where: str
) -> None:
    """Load what ``pack`` returned into a sparsifier whose model and optimizer are loaded already.

    Args:
        sparsifier: made with the settings of the one that was packed.
        parameters: the masked ones, by name.
        where: where the state comes from, for errors.

    Raises:
        CheckpointError: not such a state, or a damaged one.
        UsageError: the state of another method, seed, number of steps or network, or other weights.
    """
    step, saved = _head(state, where)
    _check_settings(sparsifier, saved, where)
    masks, explored = (_masks(state, field, where) for field in ("masks", "explored"))
    momenta = state.get("momenta")
    if not isinstance(momenta, Mapping) or not all(isinstance(tensor, Tensor) for tensor in momenta.values()):
        raise _damaged("momenta", where)
    for name, mask in masks.items():
        if name not in explored or bool((mask & ~explored[name]).any()):
            raise _damaged(f"explored, {name}", where)
    _check_weights(parameters, masks, where)
    sparsifier.load_state_dict({"step": step, "masks": masks, "explored": explored, "momenta": momenta})


def _settings(sparsifier: Sparsifier) -> dict[str, Any]:
    method = sparsifier.method
    chosen = {field.name: getattr(method, field.name) for field in fields(method) if field.init}
    settings = {"method": type(method).__name__, **chosen, "seed": sparsifier.seed}
    return {**settings, "total_steps": sparsifier.total_steps}


def _check_settings(sparsifier: Sparsifier, saved: Mapping[str, Any], where: str) -> None:
    """Raise UsageError if the state was saved with other settings than this sparsifier has."""
    mine = json.loads(json.dumps(_settings(sparsifier)))
    # A state of an older granet lacks the settings that its methods did not have yet.
    saved = {field.name: field.default for field in fields(sparsifier.method) if field.name in mine} | dict(saved)
    different = [name for name in {**saved, **mine} if saved.get(name) != mine.get(name)]
    if different:
        raise UsageError(
            "the state was written with other settings",
            where=where,
            got=", ".join(f"{name} {mine.get(name)}" for name in different),
            expected=", ".join(f"{name} {saved.get(name)}" for name in different),
            remedy="resume with the settings of the run; to train longer than was planned, give its total_steps, after "
            "which the topology stays",
        )


def _head(state: Mapping[str, Any], where: str) -> tuple[int, dict[str, Any]]:
    if not isinstance(state, Mapping) or "format" not in state:
        raise CheckpointError("not the state of a sparsifier", where=where, got=type(state).__name__)
    if state["format"] != FORMAT:
        raise CheckpointError(
            "the state of a sparsifier in another format", where=where, got=state["format"], expected=FORMAT
        )
    step = state.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise _damaged("step", where)
    try:
        settings = json.loads(state["settings"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged("settings", where) from error
    if not isinstance(settings, dict):
        raise _damaged("settings", where)
    return step, settings


def _bits(masks: Masks) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.packbits(mask.reshape(-1).cpu().numpy(), bitorder="little"))
        for name, mask in masks.items()
    }


def _masks(state: Mapping[str, Any], field: str, where: str) -> dict[str, Tensor]:
    bits, shapes = state.get(field), state.get("shapes")
    if not isinstance(bits, Mapping) or not isinstance(shapes, Mapping) or bits.keys() != shapes.keys():
        raise _damaged(field, where)
    masks = {}
    for name, shape in shapes.items():
        if not _is_shape(shape):
            raise _damaged(f"shapes, {name}", where)
        size, packed = prod(shape), bits[name]
        if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.shape != (-(-size // 8),):
            raise _damaged(f"{field}, {name}", where)
        entries = np.unpackbits(packed.cpu().numpy(), bitorder="little")
        if entries[size:].any():
            raise _damaged(f"{field}, {name}", where)
        masks[name] = torch.from_numpy(entries[:size].astype(np.bool_)).view(*shape)
    return masks


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list | tuple) and all(isinstance(length, int) and length >= 0 for length in shape)


def _check_weights(parameters: Mapping[str, nn.Parameter], masks: Masks, where: str) -> None:
    for name, parameter in parameters.items():
        mask = masks.get(name)
        if mask is not None and mask.shape == parameter.shape:  # else load_state_dict says so
            outside = int(((parameter.detach() != 0) & ~mask.to(parameter.device)).sum())
            if outside:
                raise UsageError(
                    "the masks do not belong to these weights",
                    where=f"{where}, {name}",
                    got=f"{outside} weights that are not zero where the masks say that nothing is active",
                    remedy="load the model and the optimizer from the same checkpoint, before the sparsifier",
                )


def _damaged(field: str, where: str) -> CheckpointError:
    return CheckpointError("the state of the sparsifier is damaged", where=where, got=field)
