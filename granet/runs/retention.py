"""Which checkpoints a run writes on its way, and which of them it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from granet.recipe import Recipe
from granet.recipe.durations import Duration


@dataclass(frozen=True)
class Retention:
    """Pure rules of the step.

    Attributes:
        save_every: steps between saves within an epoch; None saves at the ends of epochs only.
        keep_every: steps between checkpoints kept for good, as rewind points; None keeps none.
        keep_last: how many of the newest saves are kept besides; None keeps none.
    """

    save_every: int | None
    keep_every: int | None
    keep_last: int | None

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int) -> Retention:
        """The rules of a recipe."""

        def steps(duration: Duration | None) -> int | None:
            return duration.steps(steps_per_epoch) if duration else None

        training = recipe.training
        return cls(steps(training.save_every), steps(training.keep_every), training.keep_last)

    def due(self, step: int) -> bool:
        """Whether to save at ``step``, were it not the end of an epoch."""
        return _multiple(step, self.save_every) or _multiple(step, self.keep_every)

    def keeps(self, step: int) -> bool:
        """Whether the save at ``step`` also becomes a file of its own."""
        return self.keep_last is not None or _multiple(step, self.keep_every)

    def obsolete(self, kept: Iterable[int], step: int) -> list[int]:
        """Which of the ``kept`` steps may go once the save at ``step`` is safe."""
        if self.keep_last is None:
            return []
        passing = sorted({old for old in kept if old <= step and not _multiple(old, self.keep_every)} | {step})
        return [old for old in passing[: -self.keep_last] if old != step]


def _multiple(step: int, period: int | None) -> bool:
    return period is not None and step % period == 0
