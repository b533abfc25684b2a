"""Running sums of dense gradients, by which growth by momentum ranks weights.

They are separate from the optimizer's state, which is masked: there the momentum of an inactive weight is always zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from granet.masks.layout import Layout, flattened, only_device


class GradientSums:
    """Exponentially decaying sum of each parameter's gradients: ``sum = decay * sum + gradient`` at every step.

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
        """Decay the sums and add a step's ``gradients``, entries that are not finite as 0.

        Nothing changes if the 0-d tensor ``unless`` is not 0.
        Needs memory for a small piece of a layer only, if gradients have the memory format of their parameters.
        """
        entries = flattened(gradients, self._layout)
        for piece in self._pieces:
            added = piece.gather(entries).nan_to_num(0.0, 0.0, 0.0)
            totals = [self._totals[name][part] for name, part, _ in piece.shares]
            shares = [added[share] for _, _, share in piece.shares]
            if unless is None:
                torch._foreach_mul_(totals, self._decay)
                torch._foreach_add_(totals, shares)
            else:  # known on the device only, without waiting for it
                for total, share in zip(totals, shares, strict=True):
                    total.copy_(torch.where(unless == 0, total * self._decay + share, total))
