"""The result of ``granet plasticity`` as a whole: its runs, recovery curves, and cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from granet.plasticity.curves import LearningRateDrop, RecoveryCurve, recovery_curves
from granet.plasticity.results import Cell
from granet.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PlasticityReport:
    """The result of ``granet plasticity``."""

    runs: tuple[str, ...]
    recipe: Recipe
    """Of the first run."""
    drops: tuple[LearningRateDrop, ...]
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


def summarise(
    cells: Sequence[Cell], runs: Iterable[str], recipe: Recipe, drops: Iterable[LearningRateDrop]
) -> PlasticityReport:
    """Return the report on ``cells``, measured on checkpoints of ``runs``."""
    return PlasticityReport(
        runs=tuple(runs), recipe=recipe, drops=tuple(drops), curves=recovery_curves(cells), cells=tuple(cells)
    )
