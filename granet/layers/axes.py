"""Axes of a weight: which one numbers the outputs of its layer, which one the inputs.

A convolution or linear layer has [outputs, inputs / groups, kernel ...], a transposed convolution [inputs, outputs /
groups, kernel ...]. Rows come group after group; the second axis numbers the channels of the row's own group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class WeightAxes:
    """How the weight of a layer joins inputs to outputs."""

    groups: int = 1
    transposed: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> WeightAxes:
        """Return the axes of the weight of a convolution or linear layer."""
        return cls(int(getattr(module, "groups", 1)), bool(getattr(module, "transposed", False)))

    @property
    def outputs(self) -> int:
        """The axis that numbers outputs."""
        return int(self.transposed)

    @property
    def inputs(self) -> int:
        """The axis that numbers inputs."""
        return int(not self.transposed)

    def channels(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the numbers of inputs and outputs of a layer whose weight has this shape."""
        sides = (shape[0], shape[1] * self.groups)
        return sides if self.transposed else sides[::-1]

    def links(self, mask: Tensor) -> Tensor:
        """Return which outputs see which inputs: bool [groups, outputs of a group, inputs of a group].

        Args:
            mask: bool, of the shape of the weight.
        """
        columns = mask.shape[1] if mask.dim() > 1 else 1
        links = mask.reshape(self.groups, mask.shape[0] // self.groups, columns, -1).any(-1)
        return links.transpose(1, 2) if self.transposed else links
