"""Recovery curves: pruning plasticity over the training, with statistics over seeds.

Plasticity (Liu et al. 2021, arXiv 2106.10404, section 3) is the accuracy of a network that was pruned in the middle of
its training and then trained a little longer, minus the accuracy before it was pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from granet.analysis.comparison import Statistic
from granet.plasticity.results import Cell
from granet.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Statistics over seeds of the cells of one step, rate and regeneration."""

    step: int
    epoch: float
    learning_rate: float
    density: Statistic
    """Of the network that is trained."""
    before: Statistic
    pruned: Statistic
    after: Statistic | None
    """Over the runs that did not diverge; None when all did."""
    plasticity: Statistic | None
    """Likewise."""
    gain: Statistic | None
    """Accuracy afterwards minus that of the same checkpoint without regeneration; None where there is no such cell."""
    diverged: int
    """Runs whose loss stopped being finite."""


@dataclass(frozen=True, kw_only=True)
class RecoveryCurve:
    """Plasticity over the training, for one rate and one kind of regeneration."""

    rate: float
    regeneration: str
    points: tuple[CurvePoint, ...]
    """By step; at least one."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A step at which the schedule lowers the learning rate."""

    step: int
    epoch: float
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Plasticity:
    """The result of ``granet plasticity``."""

    runs: tuple[str, ...]
    recipe: Recipe
    """Of the first run."""
    drops: tuple[Drop, ...]
    curves: tuple[RecoveryCurve, ...]
    """By regeneration, then by rate."""
    cells: tuple[Cell, ...]
    """Cells sorted by checkpoint, rate and regeneration; at least one."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs, each once, in the order of the cells."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    def as_json(self) -> dict[str, Any]:
        """Return the result as dictionaries, lists and numbers."""
        first = self.cells[0]
        shares = {cell.drop_fraction for cell in self.cells} - {None}
        return {
            "runs": list(self.runs),
            "seeds": list(self.seeds),
            "recipe": self.recipe.name,
            "method": self.recipe.method.name,
            "model": self.recipe.model.name,
            "data": self.recipe.data.name,
            "split": first.split,
            "examples": first.examples,
            "epochs": first.epochs,
            "scope": first.scope,
            "drop_fraction": next(iter(shares), None),
            "learning_rate_drops": [asdict(drop) for drop in self.drops],
            "curves": [asdict(curve) for curve in self.curves],
            "cells": [{**asdict(cell), "plasticity": cell.plasticity} for cell in self.cells],
        }


def summarise(cells: Sequence[Cell], runs: Iterable[str], recipe: Recipe, drops: Iterable[Drop]) -> Plasticity:
    """Return the curves of ``cells``, in the order in which rates and kinds of regeneration come up in them."""
    bare = {(cell.checkpoint, cell.rate): cell for cell in cells if cell.regeneration == "none"}
    rates = list(dict.fromkeys(cell.rate for cell in cells))
    curves = []
    for regeneration in dict.fromkeys(cell.regeneration for cell in cells):
        for rate in rates:
            mine = [cell for cell in cells if (cell.rate, cell.regeneration) == (rate, regeneration)]
            steps = sorted({cell.step for cell in mine})
            points = [_point([cell for cell in mine if cell.step == step], bare) for step in steps]
            if points:
                curves.append(RecoveryCurve(rate=rate, regeneration=regeneration, points=tuple(points)))
    return Plasticity(runs=tuple(runs), recipe=recipe, drops=tuple(drops), curves=tuple(curves), cells=tuple(cells))


def _point(cells: Sequence[Cell], bare: dict[tuple[str, float], Cell]) -> CurvePoint:
    first = cells[0]

    def over(figure: Callable[[Cell], float]) -> Statistic:
        found = Statistic.of(figure(cell) for cell in cells)
        assert found is not None  # noqa: S101  every cell has this figure
        return found

    def gain(cell: Cell) -> float | None:
        other = bare.get((cell.checkpoint, cell.rate))
        if cell.regeneration == "none" or cell.after is None or other is None or other.after is None:
            return None
        return cell.after - other.after

    return CurvePoint(
        step=first.step,
        epoch=first.epoch,
        learning_rate=first.learning_rate,
        density=over(lambda cell: cell.active / cell.parameters),
        before=over(lambda cell: cell.before),
        pruned=over(lambda cell: cell.pruned),
        after=Statistic.of(cell.after for cell in cells),
        plasticity=Statistic.of(cell.plasticity for cell in cells),
        gain=Statistic.of(gain(cell) for cell in cells),
        diverged=sum(cell.after is None for cell in cells),
    )
