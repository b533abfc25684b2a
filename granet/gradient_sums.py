"""Running sums of dense gradients, which growth by momentum ranks by.

They are kept beside the optimizer because its own state is masked: the momentum of an inactive weight is always zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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

    @torch.no_grad()
    def add(self, gradients: Mapping[str, Tensor], *, unless: Tensor | None) -> None:
        """Adds a step's ``gradients``, but for what is not finite in them; nothing where ``unless``, 0-d, is not 0."""
        for name, total in self.tensors.items():
            added = gradients[name].nan_to_num(0.0, 0.0, 0.0)
            if unless is None:
                total.mul_(self._decay).add_(added)
            else:  # known only to the device, which is not waited for
                total.copy_(torch.where(unless == 0, total * self._decay + added, total))
