"""What a method is, and the two halves that methods are made of: pruning and swapping.

A method is a frozen dataclass: its fields are its settings, ``update`` is its idea. Steps count optimizer steps
done, from 1; an update at step s happens after the s-th optimizer step and sees that step's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

from granet import schedules
from granet.allocation import Shapes, sizes, total_budget
from granet.errors import UsageError
from granet.masks.mapping import Masks, active, shapes
from granet.masks.random_scores import UniformScores
from granet.masks.selection import largest
from granet.methods.settings import Decay, Growth
from granet.methods.settings import check_setting as check_setting
from granet.randomness import key
from granet.topology import Counts, Tensors, TopologyUpdate, swap


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """What a method sees when an update is due.

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
        """What growth ranks inactive weights by; random scores are keyed by (seed, step, layer)."""
        if growth == "gradient":
            return self.gradients
        if growth == "momentum":
            return self.momenta
        keys = {name: key(self.seed, "grow", self.step, name) for name in self.masks}
        return UniformScores(keys, self.weights)

    @property
    def finite(self) -> bool:
        """Whether all gradients are. They are not when a gradient scaler overflowed and skipped the step."""
        return math.isfinite(self._largest_gradient)

    def outcome(self, pruned: Masks, masks: Masks) -> TopologyUpdate:
        """The update from the present masks through ``pruned`` to ``masks``."""
        note = ""
        if not self.finite:
            note = "nothing was swapped: the gradients of this step are not finite"
        elif self.gradients and self._largest_gradient == 0:
            note = "all gradients were zero: was zero_grad() called before sparsifier.step()?"
        return TopologyUpdate(self.step, self.masks, pruned, masks, note)

    @cached_property
    def _largest_gradient(self) -> float:
        return largest(self.gradients)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose the active weights of a network and to change them while it trains."""

    replaces_step: ClassVar[bool] = False
    """Whether an update takes the place of that step's optimizer step."""

    def __post_init__(self) -> None:
        for field in fields(self):
            check_setting(field.name, getattr(self, field.name), where=type(self).__name__)

    @property
    def momentum_decay(self) -> float | None:
        """Decay per step of the running sum of gradients that growth ranks by; None when there is no need."""
        return None

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Active weights of each layer at the start."""
        return sizes(shapes)

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raises UsageError when the method cannot do what it says on these layers in that many steps."""
        if not isinstance(total_steps, int) or isinstance(total_steps, bool) or total_steps < 1:
            raise UsageError(
                "a run needs steps", where="total_steps", got=repr(total_steps), expected="a whole number, 1 or more"
            )
        self.budgets(shapes)

    def due(self, step: int, total_steps: int) -> bool:
        """Whether the topology changes at ``step``."""
        return self.prunes(step, total_steps) or self.swaps(step, total_steps)

    def prunes(self, step: int, total_steps: int) -> bool:  # noqa: ARG002  the default is never
        """Whether density falls at ``step``."""
        return False

    def swaps(self, step: int, total_steps: int) -> bool:  # noqa: ARG002  the default is never
        """Whether weights are dropped and grown at ``step``."""
        return False

    def needs_gradients(self, step: int, total_steps: int) -> bool:  # noqa: ARG002  the default is never
        """Whether the update at ``step`` looks at that step's dense gradients."""
        return False

    def final_density(self) -> float:
        """Density at the end of the run."""
        return 1.0

    def settled(self, step: int, total_steps: int) -> bool:  # noqa: ARG002  the default is always
        """Whether the final density has been reached by ``step``."""
        return True

    def update(self, at: Snapshot) -> TopologyUpdate:  # noqa: ARG002  nothing is ever due
        """The change of topology due at ``at.step``."""
        raise AssertionError(f"{type(self).__name__} never changes the topology")


@dataclass(frozen=True, kw_only=True)
class Pruning(Method):
    """Density falls along a cubic from that of the start to ``density`` at ``end``.

    Pruning happens at every multiple of ``interval`` inside the window and at its end, so that the target is met
    whatever the interval is (the GraNet authors' code stops one interval short of it).
    """

    density: float
    """Density at the end, in (0, 1]."""
    start: int = 0
    """Step up to which nothing is pruned."""
    end: int | None = None
    """Step at which the target density is reached; half of the run when left out."""
    interval: int = 1000
    """Steps between updates."""

    def starting_density(self) -> float:
        """Density before the first update."""
        return 1.0

    def final_density(self) -> float:
        """Density at the end of the run."""
        return self.density

    def settled(self, step: int, total_steps: int) -> bool:
        """Whether the final density has been reached by ``step``."""
        return step >= self.window_end(total_steps)

    def window_end(self, total_steps: int) -> int:
        """The last step that prunes."""
        return self.end if self.end is not None else max(total_steps // 2, 1)

    def prunes(self, step: int, total_steps: int) -> bool:
        """Whether density falls at ``step``."""
        end = self.window_end(total_steps)
        return self.start < step <= end and (step % self.interval == 0 or step == end)

    def scheduled_density(self, step: int, total_steps: int) -> float:
        """The density that holds from an update at ``step`` on."""
        end = self.window_end(total_steps)
        return schedules.cubic_density(step, self.start, end, self.starting_density(), self.density)

    def keep(self, at: Snapshot) -> int:
        """The scheduled number of active weights, a whole number."""
        return total_budget(at.shapes, self.scheduled_density(at.step, at.total_steps))

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raises UsageError for a density, a window or an interval that does not fit the run."""
        super().check(shapes, total_steps)
        total_budget(shapes, self.density)
        end = self.window_end(total_steps)
        if end > total_steps:
            raise UsageError(
                "the prune window ends past the end of training",
                where="end",
                got=f"step {end} of {total_steps}",
                remedy="end it earlier or train longer",
            )
        if self.start >= end:
            raise UsageError("the prune window is empty", where="start", got=f"{self.start} to {end}")
        if end // self.interval == self.start // self.interval:
            raise UsageError(
                "no update falls into the prune window",
                where="interval",
                got=f"every {self.interval} steps, window {self.start} to {end}",
                remedy="shorten the interval or widen the window",
            )


@dataclass(frozen=True, kw_only=True)
class Swapping(Method):
    """Density stays; a decaying fraction of each layer's active weights is swapped at every interval.

    No swap happens at the last step of a run: what grows there could never be trained.
    """

    interval: int = 1000
    """Steps between updates."""
    drop_fraction: float = 0.5
    """Share of a layer's active weights that the first update drops and grows, in (0, 1]."""
    final_drop_fraction: float | None = None
    """Share at the end of the decay; the method's own figure when left out."""
    decay: Decay = "cosine"
    """How the fraction goes from the first to the second: cosine, linear, or constant (it stays)."""

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

    def first_swap(self) -> int:
        """Step before which nothing is swapped."""
        return 1

    def last_swap(self, total_steps: int) -> int:
        """The last step that may swap."""
        return total_steps - 1

    def horizon(self, total_steps: int) -> int:
        """Steps over which the drop fraction decays."""
        return total_steps

    def swaps(self, step: int, total_steps: int) -> bool:
        """Whether weights are dropped and grown at ``step``."""
        last = min(self.last_swap(total_steps), total_steps - 1)
        return step % self.interval == 0 and self.first_swap() <= step <= last

    def fraction(self, step: int, total_steps: int) -> float:
        """The drop fraction of an update at ``step``."""
        if self.decay == "constant":
            return self.drop_fraction
        final = self.final_drop_fraction
        if final is None:
            final = min(self.default_final_drop_fraction, self.drop_fraction)
        decay = schedules.cosine if self.decay == "cosine" else schedules.linear
        return decay(step, self.horizon(total_steps), self.drop_fraction, final)

    def swap_counts(self, masks: Masks, at: Snapshot) -> Counts:
        """How many weights each layer drops and grows: none where all are active and nothing could move."""
        fraction = self.fraction(at.step, at.total_steps)
        sizes = {name: math.prod(shape) for name, shape in shapes(masks).items()}
        return {
            name: 0 if count == sizes[name] else min(type(self).rounding(fraction * count), count)
            for name, count in active(masks).items()
        }

    def swap(self, masks: Masks, at: Snapshot, growth: Growth) -> Masks:
        """``masks`` after the swap due at ``at``; unchanged when its gradients cannot be ranked."""
        if growth == "gradient" and not at.finite:
            return masks
        return swap(at.weights, at.scores(growth), masks, self.swap_counts(masks, at))

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raises UsageError for an interval at which nothing would ever be swapped."""
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
