"""Judge a broken file: it must be refused with CheckpointError, or open as a sound checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from granet.checkpoint import Checkpoint, codec, load, load_outline, verify
from granet.errors import CheckpointError

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Finding(AssertionError):  # noqa: N818  it is what a fuzzer finds
    """A file that was neither refused nor opened as a sound checkpoint."""


def judge(path: Path, sound: Collection[bytes], *, forged: bool) -> str:
    """Return what became of the broken file at ``path``: refused, unchanged (one of the ``sound`` files), or sound.

    A damaged file must be refused, unless nothing changed. A forged one may open; then its parts must agree with one
    another and survive being saved. ``verify`` must find fault with whatever ``load`` refuses, and raise nothing.

    Raises:
        Finding: any other result.
        Exception: any other error of the code.
    """
    verification = verify(path)
    try:
        loaded = load(path)
    except CheckpointError as error:
        if verification.ok:
            raise Finding(f"verify finds nothing wrong with what load refuses: {error}") from error
        return "refused"
    faults = {failure.part for failure in verification.failures if "not finite" not in failure.message}
    if not faults <= {"budget", "recipe"}:
        raise Finding(f"load accepts what verify finds wrong: {verification.failures}")
    if load_outline(path).masks.keys() != loaded.masks.keys():
        raise Finding("load_outline finds other masks than load")
    if path.read_bytes() in sound:
        return "unchanged"
    if not forged:
        raise Finding("a damaged file was accepted")
    _check_sound(loaded)
    if not same(codec.decode(np.frombuffer(codec.encode(loaded), np.uint8), "again"), loaded):
        raise Finding("it does not survive being saved")
    return "sound"


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are equal, bit for bit."""
    parts = ("weights", "masks", "buffers", "explored", "optimizer", "accumulators")
    rest = ("recipe", "step", "network", "progress", "metrics")
    return all(_same(getattr(one, part), getattr(other, part)) for part in parts) and all(
        repr(getattr(one, part)) == repr(getattr(other, part)) for part in rest
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(_bits(one), _bits(other))
    return type(one) is type(other) and repr(one) == repr(other)


def _check_sound(value: Checkpoint) -> None:
    for name, mask in value.masks.items():
        slots = value.optimizer.get(name, {}).values()
        masked = [slot for slot in slots if isinstance(slot, Tensor) and slot.dim() and slot.shape == mask.shape]
        for tensor in (value.weights[name], *masked):
            if tensor.shape != mask.shape or _bits(tensor)[~mask.reshape(-1)].any():
                raise Finding(f"a value outside the mask of {name}")
        if (mask & ~value.explored[name]).any():
            raise Finding(f"an active weight of {name} was never explored")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(_BITS[tensor.itemsize])
