"""Retention of checkpoints: when a run saves within an epoch, and which saves it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from granet.recipe import Recipe
from granet.recipe.durations import Duration


@dataclass(frozen=True)
class Retention:
    """When to save and what to keep, as functions of the step.

    Attributes:
        save_every: steps between saves within an epoch; None saves at the ends of epochs only.
        keep_every: steps between checkpoints that are never removed (rewind points); None keeps none.
        keep_last: how many of the newest saves are also kept; None keeps none.
    """

    save_every: int | None
    keep_every: int | None
    keep_last: int | None

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int) -> Retention:
        """Return the retention of a recipe."""

        def steps(duration: Duration | None) -> int | None:
            return duration.steps(steps_per_epoch) if duration else None

        training = recipe.training
        return cls(steps(training.save_every), steps(training.keep_every), training.keep_last)

    def due(self, step: int) -> bool:
        """Return whether to save at ``step`` within an epoch."""
        return _multiple(step, self.save_every) or _multiple(step, self.keep_every)

    def keeps(self, step: int) -> bool:
        """Return whether the save at ``step`` also becomes a file of its own."""
        return self.keep_last is not None or _multiple(step, self.keep_every)

    def obsolete(self, kept: Iterable[int], step: int) -> list[int]:
        """Return which of the ``kept`` steps to remove when the save at ``step`` is on disk."""
        if self.keep_last is None:
            return []
        passing = sorted({old for old in kept if old <= step and not _multiple(old, self.keep_every)} | {step})
        return [old for old in passing[: -self.keep_last] if old != step]

    def steps_at_end(self, start: int, end: int) -> list[int]:
        """Return the steps of all checkpoints of a run from ``start`` to ``end``: the last, the best and those kept.

        The best counts as one of the end, and so do those of ``keep_last``.
        """
        steps = [end] * (2 + (self.keep_last or 0))
        if self.keep_every is not None:
            steps += range(-(-start // self.keep_every) * self.keep_every, end + 1, self.keep_every)
        return steps


def _multiple(step: int, period: int | None) -> bool:
    return period is not None and step % period == 0
