"""GraNet: gradual pruning with zero-cost neuroregeneration."""

from __future__ import annotations

from dataclasses import dataclass

from granet.allocation import ALLOCATIONS, Allocation, Scope, Shapes
from granet.errors import UsageError
from granet.methods.base import register
from granet.methods.pruning import Pruning
from granet.methods.settings import Growth, fixed, setting
from granet.methods.swapping import Swapping


@register("granet")
@dataclass(frozen=True, kw_only=True)
class GraNet(Pruning, Swapping):
    """Gradual pruning with zero-cost neuroregeneration: prune globally, then swap by gradient.

    Liu et al. 2021 (arXiv 2106.10404). Swaps follow pruning at the same steps, and go on to the end at constant
    density. Departures from the authors' code, on purpose: counts are exact, the target density is reached, no layer
    is emptied, and there is no swap at the very last step.
    """

    initial_density: float = setting(
        "Share that is active at the start; 1 starts dense, less (0.5 in the paper) from a random mask",
        above=0,
        at_most=1,
        default=1.0,
    )
    allocation: Allocation | None = setting(
        "How a random mask is shared among the layers: erk, er or uniform; by default erk, or uniform where each layer "
        "is pruned by itself",
        default=None,
    )
    growth: Growth = setting("What decides where weights grow: gradient, momentum or random", default="gradient")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density > self.initial_density:
            raise UsageError(
                "the final density is above the initial one",
                where=type(self).__name__,
                got=f"{self.initial_density:g} to {self.density:g}",
                remedy="raise initial_density or lower density",
            )
        if self.allocation is not None and self.initial_density == 1.0:
            raise UsageError(
                "a dense start has no use for an allocation",
                where=type(self).__name__,
                got=f"allocation={self.allocation!r} with initial_density=1",
                remedy="leave it out, or start sparse",
            )

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Return the active weights of each layer at the start."""
        allocation = self.allocation or ("erk" if self.scope == "network" else "uniform")
        return ALLOCATIONS[allocation](shapes, self.initial_density)

    def starting_density(self) -> float:
        """Return the density before the first update."""
        return self.initial_density

    def first_swap(self) -> int:
        """Return the step at which pruning begins: swapping begins with it."""
        return max(self.start, 1)


@register("granet-uniform")
@dataclass(frozen=True, kw_only=True)
class GraNetUniform(GraNet):
    """GraNet with every layer pruned alike, from a dense or uniformly sparse start."""

    scope: Scope = fixed("layer")
    allocation: Allocation | None = fixed(None)
