"""Gradual magnitude pruning: the half of a method that lets density fall."""

from __future__ import annotations

from dataclasses import dataclass

from granet import schedules
from granet.allocation import Scope, Shapes, scoped_budget, sizes, total_budget
from granet.errors import UsageError
from granet.masks.mapping import Masks, active
from granet.methods.base import Method
from granet.methods.settings import Steps, setting
from granet.methods.snapshot import Snapshot
from granet.topology import prune_to


@dataclass(frozen=True, kw_only=True)
class Pruning(Method):
    """Density falls along a cubic from that of the start to ``density`` at ``end``.

    Pruning happens at every multiple of ``interval`` inside the window and at its end, so that the target is met
    whatever the interval is (the GraNet authors' code stops one interval short of it).
    """

    density: float = setting("Share of the maskable weights that is active at the end", above=0, at_most=1)
    scope: Scope = setting(
        "Among what weights compete when density falls: all of the network, or those of their layer", default="network"
    )
    start: Steps = setting("Until when nothing is pruned", at_least=0, default=0)
    end: Steps | None = setting(
        "When pruning reaches its density; half of the training when left out", at_least=1, default=None
    )
    interval: Steps = setting("Time between two changes of the mask", at_least=1, default=1000)

    def starting_density(self) -> float:
        """Return the density before the first update."""
        return 1.0

    def final_density(self) -> float:
        """Return the density at the end of the run."""
        return self.density

    def reached_final_density(self, step: int, total_steps: int) -> bool:
        """Whether the final density has been reached by ``step``."""
        return step >= self.window_end(total_steps)

    def window_end(self, total_steps: int) -> int:
        """Return the last step that prunes."""
        return self.end if self.end is not None else max(total_steps // 2, 1)

    def prunes(self, step: int, total_steps: int) -> bool:
        """Whether density falls at ``step``."""
        end = self.window_end(total_steps)
        return self.start < step <= end and (step % self.interval == 0 or step == end)

    def scheduled_density(self, step: int, total_steps: int) -> float:
        """Return the density from an update at ``step`` on."""
        end = self.window_end(total_steps)
        return schedules.cubic_density(step, self.start, end, self.starting_density(), self.density)

    def floors(self, shapes: Shapes) -> dict[str, int]:
        """Return the fewest active weights of each layer when each is pruned by itself."""
        return dict.fromkeys(shapes, 1)

    def prune(self, snapshot: Snapshot) -> Masks:
        """Keep the weights of largest magnitude, exactly as many as the scheduled density says."""
        density = self.scheduled_density(snapshot.step, snapshot.total_steps)
        ideal = {name: density * size for name, size in sizes(snapshot.shapes).items()}
        total, floors = total_budget(snapshot.shapes, density), self.floors(snapshot.shapes)
        budget = scoped_budget(self.scope, total, ideal, lower=floors, upper=active(snapshot.masks))
        return prune_to(snapshot.weights, snapshot.masks, budget)

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raise UsageError for a density, a window or an interval that does not fit the run."""
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
