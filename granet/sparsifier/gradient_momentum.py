"""Running sums of dense gradients, which growth by momentum ranks by.

They are kept beside the optimizer because its own state is masked: the momentum of an inactive weight is always zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from granet.masks.layout import Layout, flattened, only_device


class GradientSums:
    """For each parameter the sum of its gradients so far, those of each step weighing ``decay`` times the next one's.

    Args:
        parameters: by name.
        decay: in [0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.tensors = {
            name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()
        }
        self._decay = decay
        self._layout = Layout.of(self.tensors)
        self._pieces = self._layout.pieces(only_device(self.tensors))
        self._totals = flattened(self.tensors, self._layout)

    @torch.no_grad()
    def add(self, gradients: Mapping[str, Tensor], *, unless: Tensor | None) -> None:
        """Adds a step's ``gradients``, but for what is not finite in them; nothing where ``unless``, 0-d, is not 0.

        Takes memory for a small piece of a layer only, where gradients are laid out as their parameters are.
        """
        entries = flattened(gradients, self._layout)
        for piece in self._pieces:
            added = piece.gather(entries).nan_to_num(0.0, 0.0, 0.0)
            totals = [self._totals[name][part] for name, part, _ in piece.shares]
            shares = [added[share] for _, _, share in piece.shares]
            if unless is None:
                torch._foreach_mul_(totals, self._decay)
                torch._foreach_add_(totals, shares)
            else:  # known only to the device, which is not waited for
                for total, share in zip(totals, shares, strict=True):
                    total.copy_(torch.where(unless == 0, total * self._decay + share, total))
