"""GMP: gradual magnitude pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from granet.allocation import Scope, Shapes, sizes, total_budget
from granet.errors import UsageError
from granet.methods.base import register
from granet.methods.pruning import Pruning
from granet.methods.settings import fixed, setting


@register("gmp")
@dataclass(frozen=True, kw_only=True)
class GMP(Pruning):
    """Gradual magnitude pruning, global, from dense.

    Zhu and Gupta 2017 (arXiv 1710.01878); Gale et al. 2019 (arXiv 1902.09574).
    """


@register("gmp-uniform")
@dataclass(frozen=True, kw_only=True)
class GMPUniform(GMP):
    """Gradual magnitude pruning, each layer alike, from dense; first convolution dense, classifier less sparse.

    Gale et al. 2019 (arXiv 1902.09574). The first convolution stays dense and the last linear layer keeps at least
    ``classifier_density``; the others share what is left, so that the whole network has the scheduled density
    (in the paper these two layers come on top of it).
    """

    scope: Scope = fixed("layer")
    first_dense: bool = setting("Whether the first convolution stays dense", default=True)
    classifier_density: float = setting(
        "The density below which the classifier is not pruned", at_least=0, at_most=1, default=0.2
    )

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raise UsageError when the two privileged layers alone pass the final density."""
        super().check(shapes, total_steps)
        floors = sum(self.floors(shapes).values())
        if floors > total_budget(shapes, self.density):
            raise UsageError(
                "the first convolution and the classifier alone pass the final density",
                where=type(self).__name__,
                got=f"density {self.density:g}",
                expected=f"at least {floors / sum(sizes(shapes).values()):.3g}",
                remedy="raise the density, or set first_dense = false or a lower classifier_density",
            )

    def floors(self, shapes: Shapes) -> dict[str, int]:
        """Return the fewest active weights of each layer: all of the first convolution, a share of the classifier."""
        floors, size = super().floors(shapes), sizes(shapes)
        first = next((name for name, shape in shapes.items() if len(shape) > 2), None)
        last = next((name for name in reversed(list(shapes)) if len(shapes[name]) == 2), None)
        if first is not None and self.first_dense:
            floors[first] = size[first]
        if last is not None:
            floors[last] = max(math.ceil(self.classifier_density * size[last]), 1)
        return floors
