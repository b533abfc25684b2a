"""Masks: which weights of a network are active.

``Masks`` maps the name of a parameter to a bool tensor of its shape; True is active. A mask is data, never inferred
from ``weight != 0``: a weight that just grew is active and zero. ``granet.masks.packed.PackedMasks`` takes one bit a
weight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from granet.errors import UsageError
from granet.masks.packed import PackedMasks
from granet.masks.selection import top_k
from granet.randomness import generator

Masks = Mapping[str, Tensor]


def active(masks: Masks) -> dict[str, int]:
    """Return the number of active weights of each layer, with one device synchronisation for all."""
    if not masks:
        return {}
    if isinstance(masks, PackedMasks):
        return dict(masks.counts)
    counts = torch.stack([mask.count_nonzero() for mask in masks.values()]).tolist()
    return dict(zip(masks, counts, strict=True))


def shapes(masks: Masks) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the masked parameters."""
    if isinstance(masks, PackedMasks):
        return masks.shapes
    return {name: tuple(mask.shape) for name, mask in masks.items()}


def size(masks: Masks) -> int:
    """Return the number of weights that the masks cover, active or not."""
    return sum(map(prod, shapes(masks).values()))


def density(masks: Masks) -> float:
    """Return active over all weights, in [0, 1]; 1.0 when the masks cover nothing."""
    total = size(masks)
    return sum(active(masks).values()) / total if total else 1.0


def random(shapes: Mapping[str, Sequence[int]], budgets: Mapping[str, int], *, seed: int) -> dict[str, Tensor]:
    """Draw masks with exactly ``budgets[name]`` active weights at uniformly random positions.

    Drawn on the CPU and keyed by (seed, layer): the same on every rank and device, and independent of which
    other layers there are.

    Raises:
        UsageError: a budget below 0 or above the size of its layer.
    """
    masks = {}
    for name, shape in shapes.items():
        weights = prod(shape)
        if not 0 <= budgets[name] <= weights:
            raise UsageError("budget out of range", where=name, got=budgets[name], expected=f"0 to {weights}")
        if budgets[name] == weights:
            masks[name] = torch.ones(*shape, dtype=torch.bool)
        else:
            scores = torch.rand(weights, generator=generator(seed, "mask", name))
            masks[name] = top_k(scores, budgets[name]).view(*shape)
    return masks


def digest(masks: Masks) -> str:
    """Return a hash of names, shapes and active positions, the same on every device."""
    state = hashlib.blake2b(digest_size=16)
    for name, mask in masks.items():
        state.update(f"{name}:{tuple(mask.shape)};".encode())
        state.update(mask.cpu().numpy().tobytes())
    return state.hexdigest()
