"""What a method is: when it changes the masks, and how.

A method is a frozen dataclass whose fields are its settings, declared with ``setting``. Steps count optimizer steps
done, from 1; an update at step s happens after the s-th optimizer step and sees that step's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from granet.allocation import ALLOCATIONS, Allocation, Shapes, sizes
from granet.errors import UsageError
from granet.masks.mapping import Masks
from granet.methods.granularity import GRANULARITIES, described_granularities
from granet.methods.settings import setting, settings_of
from granet.methods.snapshot import Snapshot
from granet.topology import TopologyUpdate

MethodClass = TypeVar("MethodClass", bound="type[Method]")
REGISTERED: dict[str, type[Method]] = {}
"""Methods by the name that recipes and the command line use; filled by ``register``."""


def register(name: str) -> Callable[[MethodClass], MethodClass]:
    """Class decorator that makes a method available as ``name``."""

    def add(method: MethodClass) -> MethodClass:
        assert REGISTERED.setdefault(name, method) is method, f"two methods are called {name}"  # noqa: S101
        return method

    return add


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose the active weights of a network and to change them while it trains.

    Subclasses say when (``prunes``, ``swaps``) and how (``prune``, ``swap``); counts and shapes are those of units of
    the granularity.
    """

    granularity: str = setting(
        f"What is pruned, dropped and grown together: {described_granularities()}",
        choices=GRANULARITIES,
        default="weight",
    )

    replaces_step: ClassVar[bool] = False
    """Whether an update takes the place of that step's optimizer step."""

    def __post_init__(self) -> None:
        for declared in settings_of(type(self)).values():
            declared.check(getattr(self, declared.name), where=type(self).__name__)

    @property
    def momentum_decay(self) -> float | None:
        """Decay per step of the running sum of gradients that growth ranks by; None when growth needs no such sum."""
        return None

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Return the number of active weights of each layer at the start."""
        return sizes(shapes)

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raise UsageError when the settings do not fit these layers or that many steps."""
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
        """Whether the update at ``step`` uses that step's dense gradients."""
        return False

    def final_density(self) -> float:
        """Return the density at the end of the run."""
        return 1.0

    def reached_final_density(self, step: int, total_steps: int) -> bool:  # noqa: ARG002  the default is always
        """Whether the final density has been reached by ``step``."""
        return True

    def update(self, snapshot: Snapshot) -> TopologyUpdate:
        """Return the change due at ``snapshot.step``: prune to the scheduled density, then swap."""
        masks = pruned = self.prune(snapshot) if self.prunes(snapshot.step, snapshot.total_steps) else snapshot.masks
        if self.swaps(snapshot.step, snapshot.total_steps):
            masks = self.swap(pruned, snapshot)
        return snapshot.outcome(pruned, masks)

    def prune(self, snapshot: Snapshot) -> Masks:
        """Return masks within ``snapshot.masks`` at the scheduled density."""
        return snapshot.masks

    def swap(self, masks: Masks, snapshot: Snapshot) -> Masks:  # noqa: ARG002  the default is no change
        """Return ``masks`` with some weights dropped and as many grown."""
        return masks


@dataclass(frozen=True, kw_only=True)
class RandomStart(Method):
    """Density stays; the first mask is drawn at random, layer by layer, with the densities of an allocation."""

    density: float = setting("Share of the maskable weights that is active", above=0, at_most=1)
    allocation: Allocation = setting(
        "How the active weights are shared among the layers: erk, er or uniform", default="erk"
    )

    def budgets(self, shapes: Shapes) -> dict[str, int]:
        """Return the active weights of each layer that the allocation gives."""
        return ALLOCATIONS[self.allocation](shapes, self.density)

    def final_density(self) -> float:
        """Return the density of the whole run."""
        return self.density
