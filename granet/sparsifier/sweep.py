"""A second masking of weights and optimizer state, a share at every step, in turn.

It finds what nobody else notices: what was written through ``.data``, or into an array that shares memory with a
weight. A network of up to ``SHARE`` weights is masked at every step, a larger one within ``STEPS`` of them. Nothing
waits for the device, and no version counter changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from granet.masks.packed import PackedMasks
from granet.sparsifier.gradient_masking import stored_integers

SHARE = 2**14
"""Weights of a share, at least."""

STEPS = 512
"""Steps in which all shares have their turn, at most."""


class Sweep:
    """Zeroes what is inactive, a share at a time; see the module.

    Args:
        tensors: weights and state of each layer.
        masks: of these layers.
        multipliers: returns a layer's mask, in the memory format of its weight: True or 1 for active.
    """

    def __init__(
        self, tensors: Mapping[str, Sequence[Tensor]], masks: PackedMasks, multipliers: Callable[[str], Tensor]
    ) -> None:
        layout = masks.layout.only(name for name, span in masks.layout.items() if masks.counts[name] < span.size)
        entries, others = stored_integers({name: [tensor.data for tensor in tensors[name]] for name in layout}, layout)
        factors, strided = stored_integers({name: [multipliers(name)] for name in layout}, layout)
        others += [(name, tensor.data) for name, _ in strided for tensor in tensors[name]]
        pairs = {name: [(tensor, factor) for factor in factors[name] for tensor in entries[name]] for name in layout}
        pieces = layout.pieces_of(max(SHARE, -(-layout.size // STEPS)) // 8)
        shares = [[(t[part], f[part]) for name, part, _ in piece.shares for t, f in pairs[name]] for piece in pieces]
        self._turns = cycle([[*zip(*share, strict=True)] for share in shares if share])
        self._others, self._masks = others, masks

    def next(self) -> None:
        """Mask the share whose turn it is."""
        for integers, factors in islice(self._turns, 1):
            torch._foreach_mul_(integers, factors)
        for name, tensor in self._others:  # which are few: in another memory format than their weight
            tensor.masked_fill_(~self._masks[name], 0)
