"""Dropping the smallest weights and growing as many others: the half of a method that keeps the density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from granet import schedules, topology
from granet.allocation import Shapes, sizes
from granet.errors import UsageError
from granet.masks.mapping import Masks, active, shapes
from granet.masks.selection import Counts
from granet.methods.base import Method, RandomStart
from granet.methods.settings import Decay, Growth, Steps, fixed, setting
from granet.methods.snapshot import Snapshot

GROWTH_MOMENTUM = 0.9
"""Decay of the running sum of gradients where growth by momentum is only an option of a method."""


@dataclass(frozen=True, kw_only=True)
class Swapping(Method):
    """Density stays; a decaying fraction of each layer's active weights is swapped at every interval.

    No swap happens at the last step of a run: what grows there could never be trained.
    """

    interval: Steps = setting("Time between two changes of the mask", at_least=1, default=1000)
    drop_fraction: float = setting(
        "Share of a layer's active weights that the first update drops and grows", above=0, at_most=1, default=0.5
    )
    final_drop_fraction: float | None = setting(
        "Drop fraction at the end of its decay; by default the method's own", at_least=0, at_most=1, default=None
    )
    decay: Decay = setting(
        "How the share gets there: cosine, linear, or constant for no change at all", default="cosine"
    )
    growth: Growth = fixed("gradient")

    default_final_drop_fraction: ClassVar[float] = 0.005
    rounding: ClassVar[Callable[[float], int]] = math.ceil
    """From the share of a layer to a count: up, as the code of GraNet and ITOP does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay == "constant" and self.final_drop_fraction is not None:
            raise UsageError(
                "a constant drop fraction has no final value",
                where=type(self).__name__,
                got=f"final_drop_fraction={self.final_drop_fraction:g}",
                remedy="leave it out, or choose decay cosine or linear",
            )
        if self.final_drop_fraction is not None and self.final_drop_fraction > self.drop_fraction:
            raise UsageError(
                "the drop fraction cannot grow",
                where=type(self).__name__,
                got=f"{self.drop_fraction:g} to {self.final_drop_fraction:g}",
            )

    @property
    def momentum_decay(self) -> float | None:
        """Decay per step of the running sum of gradients; None unless growth is by momentum."""
        return GROWTH_MOMENTUM if self.growth == "momentum" else None

    def needs_gradients(self, step: int, total_steps: int) -> bool:
        """Whether there is a swap at ``step`` that grows by gradient."""
        return self.growth == "gradient" and self.swaps(step, total_steps)

    def first_swap(self) -> int:
        """Return the step before which nothing is swapped."""
        return 1

    def last_swap(self, total_steps: int) -> int:
        """Return the last step that may swap."""
        return total_steps - 1

    def horizon(self, total_steps: int) -> int:
        """Return the number of steps over which the drop fraction decays."""
        return total_steps

    def swaps(self, step: int, total_steps: int) -> bool:
        """Whether weights are dropped and grown at ``step``."""
        last = min(self.last_swap(total_steps), total_steps - 1)
        return step % self.interval == 0 and self.first_swap() <= step <= last

    def fraction(self, step: int, total_steps: int) -> float:
        """Return the drop fraction of an update at ``step``."""
        if self.decay == "constant":
            return self.drop_fraction
        final = self.final_drop_fraction
        if final is None:
            final = min(self.default_final_drop_fraction, self.drop_fraction)
        decay = schedules.cosine if self.decay == "cosine" else schedules.linear
        return decay(step, self.horizon(total_steps), self.drop_fraction, final)

    def swap_counts(self, masks: Masks, snapshot: Snapshot) -> Counts:
        """Return how many weights each layer drops and grows: none where all are active and nothing could move."""
        fraction = self.fraction(snapshot.step, snapshot.total_steps)
        total = sizes(shapes(masks))
        return {
            name: 0 if count == total[name] else min(type(self).rounding(fraction * count), count)
            for name, count in active(masks).items()
        }

    def swap(self, masks: Masks, snapshot: Snapshot) -> Masks:
        """Return ``masks`` after the swap that is due; unchanged when its gradients cannot be ranked."""
        if self.growth == "gradient" and not snapshot.finite:
            return masks
        return topology.swap(snapshot.weights, snapshot.scores(self.growth), masks, self.swap_counts(masks, snapshot))

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raise UsageError for an interval at which nothing would ever be swapped."""
        super().check(shapes, total_steps)
        last = min(self.last_swap(total_steps), total_steps - 1)
        first = -(-max(self.first_swap(), 1) // self.interval) * self.interval
        if first > last:
            raise UsageError(
                "the interval yields no update",
                where="interval",
                got=f"every {self.interval} steps, with updates allowed up to step {last} of {total_steps}",
                remedy="shorten the interval or train longer",
            )


@dataclass(frozen=True, kw_only=True)
class SwappingFromRandom(Swapping, RandomStart):
    """Swapping at constant density, from a random mask."""
