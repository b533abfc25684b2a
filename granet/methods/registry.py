"""The methods: ten ways from a dense or a random sparse network to a trained sparse one.

Each is composed from ``allocation`` (where it starts), ``method.Pruning`` and ``method.Swapping`` (when and how
far) and ``topology`` (what changes); what is left is its idea.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from granet.allocation import ALLOCATIONS, Allocation, Shapes, apportion, sizes, total_budget, uniform
from granet.errors import UsageError
from granet.masks.mapping import Masks, active
from granet.masks.packed import PackedMasks
from granet.masks.selection import mean_magnitudes
from granet.methods.base import Method, Pruning, Snapshot, Swapping
from granet.methods.settings import Decay, Growth
from granet.topology import TopologyUpdate, drop, grow, prune_each, prune_to

GROWTH_MOMENTUM = 0.9
"""Decay of the running sum of gradients where growth by momentum is only an option of a method."""


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """No mask at all: the control that sparse runs are compared with."""


@dataclass(frozen=True, kw_only=True)
class Static(Method):
    """A random mask that never changes."""

    density: float
    allocation: Allocation = "erk"

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Active weights of each layer, from the allocation."""
        return ALLOCATIONS[self.allocation](shapes, self.density)

    def final_density(self) -> float:
        """Density of the whole run."""
        return self.density


@dataclass(frozen=True, kw_only=True)
class _Exploring(Swapping):
    """Swapping at constant density, from a random mask."""

    density: float
    allocation: Allocation = "erk"

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Active weights of each layer, from the allocation."""
        return ALLOCATIONS[self.allocation](shapes, self.density)

    def final_density(self) -> float:
        """Density of the whole run."""
        return self.density

    def needs_gradients(self, step: int, total_steps: int) -> bool:
        """Every swap does, when growth is by gradient."""
        return self._grows_by() == "gradient" and self.swaps(step, total_steps)

    def update(self, at: Snapshot) -> TopologyUpdate:
        """Swap."""
        return at.outcome(at.masks, self.swap(at.masks, at, self._grows_by()))

    def _grows_by(self) -> Growth:
        return "gradient"


@dataclass(frozen=True, kw_only=True)
class SET(_Exploring):
    """Drop the smallest weights, grow at random.

    Mocanu et al. 2018 (arXiv 1707.04780). The paper swaps once an epoch and its 0.3 does not decay; the interval is
    that of the ITOP comparison.
    """

    interval: int = 1500
    drop_fraction: float = 0.3
    decay: Decay = "constant"

    def _grows_by(self) -> Growth:
        return "random"


@dataclass(frozen=True, kw_only=True)
class RigL(_Exploring):
    """Drop the smallest weights, grow where the gradient is largest, instead of the optimizer step.

    Evci et al. 2020 (arXiv 1911.11134), as published: updates stop at ``stop``, the fraction decays to 0 there, and
    an update replaces that step's optimizer step. Where the fraction is 0 nothing can be swapped, and the optimizer
    step is done; the published code leaves it out there too.
    """

    interval: int = 100
    stop: int | None = None
    """Last step that may update; three quarters of the run when left out."""
    drop_fraction: float = 0.3

    replaces_step: ClassVar[bool] = True
    default_final_drop_fraction: ClassVar[float] = 0.0
    rounding: ClassVar[Callable[[float], int]] = math.floor

    def last_swap(self, total_steps: int) -> int:
        """The last step that may swap: the last one of the decay, unless nothing is left to swap there."""
        end = self.horizon(total_steps)
        return end if self.fraction(end, total_steps) > 0 else end - 1

    def horizon(self, total_steps: int) -> int:
        """Steps over which the drop fraction decays: up to ``stop``."""
        return max(self.stop if self.stop is not None else round(0.75 * total_steps), 1)

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raises UsageError for updates that would end past the end of training, or never come."""
        super().check(shapes, total_steps)
        if self.stop is not None and self.stop > total_steps:
            raise UsageError(
                "updates stop past the end of training",
                where="stop",
                got=f"step {self.stop} of {total_steps}",
                remedy="stop them earlier or train longer",
            )


@dataclass(frozen=True, kw_only=True)
class RigLITOP(_Exploring):
    """RigL with rare, large swaps that go on to the end, so that more of the network is explored in time.

    Liu et al. 2021 (arXiv 2102.02887); "DST" in the GraNet authors' code.
    """

    interval: int = 4000
    growth: Growth = "gradient"

    @property
    def momentum_decay(self) -> float | None:
        """Set when growth is by momentum."""
        return GROWTH_MOMENTUM if self.growth == "momentum" else None

    def _grows_by(self) -> Growth:
        return self.growth


@dataclass(frozen=True, kw_only=True)
class SNFS(_Exploring):
    """Drop the smallest weights, grow by momentum, more where a layer's momentum is larger.

    Dettmers and Zettlemoyer 2019 (arXiv 1907.04840). Each layer grows in proportion to the mean momentum magnitude
    of its active weights before the drop, up to what it has room for. The momentum is a dense running sum kept
    beside the optimizer, because optimizer state here is masked; newly grown weights start without momentum.
    """

    momentum: float = 0.9
    """Decay of the running sum of gradients, in [0, 1)."""

    @property
    def momentum_decay(self) -> float | None:
        """The setting ``momentum``."""
        return self.momentum

    def _grows_by(self) -> Growth:
        return "momentum"

    def update(self, at: Snapshot) -> TopologyUpdate:
        """Drop per layer, share the freed budget by momentum, grow by momentum."""
        kept = drop(at.weights, at.masks, self.swap_counts(at.masks, at))
        left, weights = active(kept), sizes(at.shapes)
        freed = sum(active(at.masks).values()) - sum(left.values())
        importance = mean_magnitudes(at.momenta, PackedMasks.of(at.masks))
        if not any(importance.values()):
            importance = {name: float(size) for name, size in weights.items()}
        total = sum(importance.values())
        counts = apportion(
            {name: freed * share / total for name, share in importance.items()},
            freed,
            lower={name: int(count == 0) for name, count in left.items()},
            upper={name: weights[name] - count for name, count in left.items()},
        )
        return at.outcome(at.masks, grow(at.momenta, kept, counts))


@dataclass(frozen=True, kw_only=True)
class GMP(Pruning):
    """Gradual magnitude pruning, global, from dense.

    Zhu and Gupta 2017 (arXiv 1710.01878); Gale et al. 2019 (arXiv 1902.09574).
    """

    def update(self, at: Snapshot) -> TopologyUpdate:
        """Prune to the scheduled density."""
        pruned = prune_to(at.weights, at.masks, self.keep(at))
        return at.outcome(pruned, pruned)


@dataclass(frozen=True, kw_only=True)
class GMPUniform(Pruning):
    """Gradual magnitude pruning, each layer alike, from dense; first convolution dense, classifier less sparse.

    Gale et al. 2019 (arXiv 1902.09574). The first convolution stays dense and the last linear layer keeps at least
    ``classifier_density``; the others share what is left, so that the whole network has the scheduled density
    (in the paper these two layers come on top of it).
    """

    first_dense: bool = True
    classifier_density: float = 0.2

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raises UsageError when the two privileged layers alone pass the final density."""
        super().check(shapes, total_steps)
        floors = sum(self._floors(shapes).values())
        if floors > total_budget(shapes, self.density):
            raise UsageError(
                "the first convolution and the classifier alone pass the final density",
                where=type(self).__name__,
                got=f"density {self.density:g}",
                expected=f"at least {floors / sum(sizes(shapes).values()):.3g}",
                remedy="raise the density, or set first_dense = false or a lower classifier_density",
            )

    def update(self, at: Snapshot) -> TopologyUpdate:
        """Prune every layer to its share of the scheduled density."""
        pruned = prune_each(at.weights, at.masks, self._shares(at))
        return at.outcome(pruned, pruned)

    def _shares(self, at: Snapshot) -> dict[str, int]:
        density = self.scheduled_density(at.step, at.total_steps)
        ideal = {name: density * size for name, size in sizes(at.shapes).items()}
        return apportion(ideal, self.keep(at), lower=self._floors(at.shapes), upper=active(at.masks))

    def _floors(self, shapes: Shapes) -> dict[str, int]:
        floors = dict.fromkeys(shapes, 1)
        first = next((name for name, shape in shapes.items() if len(shape) > 2), None)
        last = next((name for name in reversed(list(shapes)) if len(shapes[name]) == 2), None)
        if first is not None and self.first_dense:
            floors[first] = sizes(shapes)[first]
        if last is not None:
            floors[last] = max(math.ceil(self.classifier_density * sizes(shapes)[last]), 1)
        return floors


@dataclass(frozen=True, kw_only=True)
class _GraNet(Pruning, Swapping):
    """Gradual pruning followed, at the same steps and on to the end, by a swap at constant density."""

    initial_density: float = 1.0
    """Density at the start: 1 is dense-to-sparse, 0.5 the paper's sparse-to-sparse."""
    growth: Growth = "gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density > self.initial_density:
            raise UsageError(
                "the final density is above the initial one",
                where=type(self).__name__,
                got=f"{self.initial_density:g} to {self.density:g}",
                remedy="raise initial_density or lower density",
            )

    @property
    def momentum_decay(self) -> float | None:
        """Set when growth is by momentum."""
        return GROWTH_MOMENTUM if self.growth == "momentum" else None

    def starting_density(self) -> float:
        """Density before the first update."""
        return self.initial_density

    def first_swap(self) -> int:
        """Swapping begins with pruning."""
        return max(self.start, 1)

    def needs_gradients(self, step: int, total_steps: int) -> bool:
        """Every swap does, when growth is by gradient."""
        return self.growth == "gradient" and self.swaps(step, total_steps)

    def update(self, at: Snapshot) -> TopologyUpdate:
        """Prune to the scheduled density, then swap."""
        masks = pruned = self._prune(at) if self.prunes(at.step, at.total_steps) else at.masks
        if self.swaps(at.step, at.total_steps):
            masks = self.swap(pruned, at, self.growth)
        return at.outcome(pruned, masks)

    def _prune(self, at: Snapshot) -> Masks:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class GraNet(_GraNet):
    """Gradual pruning with zero-cost neuroregeneration: prune globally, then swap by gradient.

    Liu et al. 2021 (arXiv 2106.10404). Departures from the authors' code, on purpose: counts are exact, the target
    density is reached, no layer is emptied, and there is no swap at the very last step.
    """

    allocation: Allocation | None = None
    """How the mask of a sparse start is spread, ERK when left out; a dense start has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allocation is not None and self.initial_density == 1.0:
            raise UsageError(
                "a dense start has no use for an allocation",
                where=type(self).__name__,
                got=f"allocation={self.allocation!r} with initial_density=1",
                remedy="leave it out, or start sparse",
            )

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Active weights of each layer at the start."""
        return ALLOCATIONS[self.allocation or "erk"](shapes, self.initial_density)

    def _prune(self, at: Snapshot) -> Masks:
        return prune_to(at.weights, at.masks, self.keep(at))


@dataclass(frozen=True, kw_only=True)
class GraNetUniform(_GraNet):
    """GraNet with every layer pruned alike, from a dense or uniformly sparse start."""

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Active weights of each layer at the start."""
        return uniform(shapes, self.initial_density)

    def _prune(self, at: Snapshot) -> Masks:
        density = self.scheduled_density(at.step, at.total_steps)
        ideal = {name: density * size for name, size in sizes(at.shapes).items()}
        return prune_each(at.weights, at.masks, apportion(ideal, self.keep(at), upper=active(at.masks)))


METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        "granet": GraNet,
        "granet-uniform": GraNetUniform,
        "rigl": RigL,
        "rigl-itop": RigLITOP,
        "set": SET,
        "snfs": SNFS,
        "gmp": GMP,
        "gmp-uniform": GMPUniform,
        "static": Static,
        "dense": Dense,
    }
)
"""The methods by the names that recipes and the command line use."""
