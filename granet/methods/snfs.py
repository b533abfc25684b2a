"""SNFS: sparse networks from scratch, by sparse momentum."""

from __future__ import annotations

from dataclasses import dataclass

from granet.allocation import apportion, sizes
from granet.masks.mapping import Masks, active
from granet.masks.packed import PackedMasks
from granet.masks.selection import mean_magnitudes
from granet.methods.base import register
from granet.methods.settings import Growth, fixed, setting
from granet.methods.snapshot import Snapshot
from granet.methods.swapping import GROWTH_MOMENTUM, SwappingFromRandom
from granet.topology import drop, grow


@register("snfs")
@dataclass(frozen=True, kw_only=True)
class SNFS(SwappingFromRandom):
    """Drop the smallest weights, grow by momentum, more where a layer's momentum is larger.

    Dettmers and Zettlemoyer 2019 (arXiv 1907.04840). Each layer grows in proportion to the mean momentum magnitude
    of its active weights before the drop, up to what it has room for. The momentum is a dense running sum kept
    separately from the optimizer, because optimizer state here is masked; newly grown weights start without momentum.
    """

    momentum: float = setting(
        "Decay per step of the running sum of gradients that snfs grows by",
        at_least=0,
        below=1,
        default=GROWTH_MOMENTUM,
    )
    growth: Growth = fixed("momentum")

    @property
    def momentum_decay(self) -> float | None:
        """The setting ``momentum``."""
        return self.momentum

    def swap(self, masks: Masks, snapshot: Snapshot) -> Masks:
        """Drop in each layer, share the freed budget by momentum, grow by momentum."""
        kept = drop(snapshot.weights, masks, self.swap_counts(masks, snapshot))
        left, weights = active(kept), sizes(snapshot.shapes)
        freed = sum(active(masks).values()) - sum(left.values())
        importance = mean_magnitudes(snapshot.momenta, PackedMasks.of(masks))
        if not any(importance.values()):
            importance = {name: float(size) for name, size in weights.items()}
        total = sum(importance.values())
        counts = apportion(
            {name: freed * share / total for name, share in importance.items()},
            freed,
            lower={name: int(count == 0) for name, count in left.items()},
            upper={name: weights[name] - count for name, count in left.items()},
        )
        return grow(snapshot.momenta, kept, counts)
