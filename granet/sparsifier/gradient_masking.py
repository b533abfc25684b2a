"""Zeroing of what is inactive: weights and their optimizer state at updates, gradients before every step.

The bits of a value are multiplied by 0 or 1 as an integer. So values that are kept stay the same to the bit, and those
that are not finite become zero too, where a floating-point product would be NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from granet.masks import kernels
from granet.masks.layout import LayerSpan
from granet.masks.packed import PackedMasks

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their bytes."""


@torch.no_grad()
def zero_outside(tensors: Mapping[str, Sequence[Tensor]], masks: PackedMasks) -> None:
    """Zero, in span, every entry of the layers' ``tensors`` that is inactive in ``masks``.

    Needs memory for a small piece of a layer only.
    """
    partial = {name: tensors[name] for name, span in masks.layout.items() if masks.counts[name] < span.size}
    entries, others = stored_integers(partial, masks.layout)
    for name, tensor in others:
        tensor.masked_fill_(~masks[name], 0)
    for piece in masks.layout.only(entries).pieces(masks.bits.device):
        found = [(integers[part], share) for name, part, share in piece.shares for integers in entries[name]]
        active = kernels.unpack(masks.bits[piece.bytes])
        kernels.multiply([integers for integers, _ in found], active, [share for _, share in found])


def stored_integers(
    tensors: Mapping[str, Sequence[Tensor]], layout: Mapping[str, LayerSpan]
) -> tuple[dict[str, list[Tensor]], list[tuple[str, Tensor]]]:
    """Return the layers' ``tensors`` as flat integers in storage order, and apart those in another memory format."""
    entries: dict[str, list[Tensor]] = {}
    others = []
    for name, found in tensors.items():
        entries[name] = []
        for tensor in found:
            integers = tensor.detach().view(INTEGERS[tensor.element_size()]).permute(layout[name].order)
            if integers.is_contiguous():
                entries[name].append(integers.view(-1))
            else:
                others.append((name, tensor))
    return entries, others


@torch.no_grad()
def write_integers(masks: PackedMasks, targets: Mapping[str, Tensor], active: int) -> None:
    """Write ``masks`` as integers to ``targets``: ``active`` where active, 0 elsewhere.

    Args:
        masks: of these layers, and perhaps others.
        targets: signed integers of one type, of the shapes of their layers.
        active: 1 to multiply by, or -1, which has all bits set.
    """
    entries = {}
    for name, target in targets.items():
        stored = target.permute(masks.layout[name].order)
        if stored.is_contiguous():
            entries[name] = stored.view(-1)
        else:  # its entries are not dense in memory
            target.copy_(masks[name]).mul_(active)
    for piece in masks.layout.only(entries).pieces(masks.bits.device):
        found = [(entries[name][part], share) for name, part, share in piece.shares]
        bits = kernels.unpack(masks.bits[piece.bytes])
        kernels.copy([target for target, _ in found], bits, [share for _, share in found], active)


class GradientMasks:
    """Multipliers that mask the gradients of some parameters in one multi-tensor product.

    They are integers of the gradients' own size and memory format, so that the product converts nothing, and are
    allocated at the beginning rather than in the middle of training.

    Args:
        parameters: by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._multipliers = {
            name: torch.ones_like(parameter, dtype=INTEGERS[parameter.element_size()], requires_grad=False)
            for name, parameter in parameters.items()
        }
        self._partial: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def set_masks(self, masks: PackedMasks) -> None:
        """Set the masks that the following backward passes apply; layers in which everything is active are skipped."""
        full = {name for name, span in masks.layout.items() if masks.counts[name] == span.size}
        partial = {name: tensor for name, tensor in self._multipliers.items() if name not in full}
        write_integers(masks, partial, 1)
        self._partial = [(self._parameters[name], multiplier) for name, multiplier in partial.items()]

    def __getitem__(self, name: str) -> Tensor:
        """Return the multiplier of a layer; of one in which everything is active it may be of an earlier mask."""
        return self._multipliers[name]

    def apply(self) -> None:
        """Zero the gradients of inactive weights."""
        found = [(gradient, factor) for p, factor in self._partial if (gradient := p.grad) is not None]
        if found:
            # Integers need no no_grad(), and most gradients no detach(), each of which takes longer than the rest.
            read = [(grad.detach() if grad.requires_grad else grad).view(factor.dtype) for grad, factor in found]
            torch._foreach_mul_(read, [factor for _, factor in found])
