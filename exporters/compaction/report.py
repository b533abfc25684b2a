"""The result of compaction: the smaller network, and what became smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """A convolution or linear layer before and after."""

    name: str
    """The name of its weight."""
    inputs: int
    """Input channels or features before; ``_kept`` is after."""
    inputs_kept: int
    outputs: int
    outputs_kept: int
    parameters: int
    """Entries of the weight."""
    parameters_kept: int
    flops: float | None
    """Dense inference FLOPs for one example; None where they cannot be counted."""
    flops_kept: float | None

    @property
    def changed(self) -> bool:
        """Whether it became smaller."""
        return self.parameters != self.parameters_kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Compacted:
    """A network without its dead channels."""

    model: nn.Module
    """The smaller network, in evaluation mode, with all names of the original. It shares nothing with it."""
    layers: tuple[LayerChange, ...]
    """Convolutions and linear layers in the order in which they run, changed or not."""
    flops_before: float | None
    """Dense inference FLOPs of the original for one example, as ``granet.flops.inference`` counts them without
    densities; None where it cannot."""
    flops_after: float | None
    parameters_before: int
    """All parameters, biases and norms included."""
    parameters_after: int
    removed: int
    """Outputs of convolutions and linear layers that were removed."""
    difference: float
    """The largest difference found between the outputs of both networks, as a share of the largest output."""
    notes: tuple[str, ...]
    """What stays, what is unknown, and why."""

    def as_json(self) -> Mapping[str, Any]:
        """Return all but the network, as plain dictionaries, lists and numbers."""
        return {
            "removed": self.removed,
            "parameters": {"before": self.parameters_before, "after": self.parameters_after},
            "flops": {"before": self.flops_before, "after": self.flops_after},
            "difference": self.difference,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "notes": list(self.notes),
        }
