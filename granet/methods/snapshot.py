"""What a method sees when an update is due."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from granet.allocation import Shapes
from granet.masks.mapping import Masks, shapes
from granet.masks.random_scores import UniformScores
from granet.masks.selection import Tensors, largest
from granet.methods.settings import Growth
from granet.randomness import key
from granet.topology import TopologyUpdate


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """What a method sees when an update is due, in units of its granularity.

    Attributes:
        step: optimizer steps done, this one included.
        total_steps: optimizer steps of the whole run.
        weights, gradients, momenta: by parameter name, dense. Gradients are those of this step and empty when the
            method does not need them now; momenta are running sums of gradients, empty unless the method's
            ``momentum_decay`` asks for them.
        masks: what is active now.
        seed: key of random growth.
    """

    step: int
    total_steps: int
    weights: Tensors
    gradients: Tensors
    momenta: Tensors
    masks: Masks
    seed: int

    @property
    def shapes(self) -> Shapes:
        """The shapes of the masked parameters."""
        return shapes(self.masks)

    def scores(self, growth: Growth) -> Tensors:
        """Return what growth ranks inactive weights by; random scores are keyed by (seed, step, layer)."""
        if growth == "gradient":
            return self.gradients
        if growth == "momentum":
            return self.momenta
        keys = {name: key(self.seed, "grow", self.step, name) for name in self.masks}
        return UniformScores(keys, self.weights)

    @property
    def finite(self) -> bool:
        """Whether all gradients are finite. They are not when a gradient scaler overflowed and skipped the step."""
        return math.isfinite(self._largest_gradient)

    def outcome(self, pruned: Masks, masks: Masks) -> TopologyUpdate:
        """Return the update from the present masks through ``pruned`` to ``masks``."""
        note = ""
        if not self.finite:
            note = "nothing was swapped: the gradients of this step are not finite"
        elif self.gradients and self._largest_gradient == 0:
            note = "all gradients were zero: was zero_grad() called before sparsifier.step()?"
        return TopologyUpdate(self.step, self.masks, pruned, masks, note)

    @cached_property
    def _largest_gradient(self) -> float:
        return largest(self.gradients)
