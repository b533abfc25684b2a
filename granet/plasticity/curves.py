"""Pruning plasticity as data: what single cells of the experiment came to, and the curves that they make.

Plasticity (Liu et al. 2021, arXiv 2106.10404, section 3) is the accuracy of a network that was pruned in the middle of
its training and then trained a little longer, minus the accuracy before it was pruned.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from granet.analysis.comparison import Statistic
from granet.errors import CheckpointError
from granet.recipe import Recipe

FORMAT = 1
"""Version of the files that cells are kept in."""

REGENERATIONS = ("none", "pruned", "swap")
"""What happens between pruning and training; see ``granet.plasticity.cell``."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One checkpoint, pruned by one rate, with one kind of regeneration, and trained on. Accuracies are from 0 to 1."""

    checkpoint: str
    """Content hash of the checkpoint."""
    step: int
    """Of the checkpoint."""
    epoch: float
    """The same in epochs."""
    seed: int
    """Of the run that the checkpoint is of."""
    learning_rate: float
    """At which the pruned network was trained, from beginning to end."""
    rate: float
    """Share of the active weights that was pruned, above 0 and below 1."""
    regeneration: str
    """One of ``REGENERATIONS``."""
    epochs: int
    """How long it was trained."""
    scope: str
    """global or uniform: over what weights were ranked."""
    drop_fraction: float | None
    """Share of each layer that ``swap`` dropped and grew; None for the others."""
    parameters: int
    """Maskable weights."""
    active_before: int
    """Those active in the checkpoint."""
    active_pruned: int
    """Those that pruning left."""
    active: int
    """Those that were trained, after regeneration."""
    before: float
    """Accuracy of the checkpoint."""
    pruned: float
    """Accuracy after pruning and regeneration, before any training."""
    after: float | None
    """Accuracy after training; None when the loss stopped being finite."""
    split: str
    """Where accuracies were measured."""
    examples: int
    """Over how many images."""
    device: str
    """cpu or cuda."""
    precision: str
    """Of the arithmetic."""

    @property
    def plasticity(self) -> float | None:
        """``after`` minus ``before``; None when training diverged."""
        return None if self.after is None else self.after - self.before

    @property
    def key(self) -> tuple[str, float, str]:
        """What tells it from other cells of the same settings."""
        return self.checkpoint, self.rate, self.regeneration

    def to_json(self) -> str:
        """The same cell always gives the same text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: object) -> Cell:
        """The cell that ``text`` holds; ``where`` is what messages call it.

        Raises:
            CheckpointError: text that is not of a cell, or of a newer version.
        """
        damaged = "remove the file: granet plasticity then measures this cell again"
        try:
            found = json.loads(text)
            version = found.pop("format")
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError("not a result of granet plasticity", where=where, remedy=damaged) from error
        if isinstance(version, int) and version > FORMAT:
            raise CheckpointError(
                "written by a newer version of granet", where=where, got=f"format {version}", expected=FORMAT
            )
        expected = typing.get_type_hints(cls)
        if version != FORMAT or found.keys() != expected.keys():
            raise CheckpointError("not a result of granet plasticity", where=where, remedy=damaged)
        for name, kind in expected.items():
            if not _fits(found[name], kind):
                raise CheckpointError(
                    "a result that cannot be", where=f"{where}, {name}", got=repr(found[name])[:80], remedy=damaged
                )
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """All cells of one step, rate and regeneration, over seeds."""

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
    """All that ``granet plasticity`` shows."""

    runs: tuple[str, ...]
    recipe: Recipe
    """Of the first run."""
    drops: tuple[Drop, ...]
    curves: tuple[RecoveryCurve, ...]
    """By regeneration, then by rate."""
    cells: tuple[Cell, ...]
    """By checkpoint, rate and regeneration; at least one."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs, in order."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
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


def tell(cells: Sequence[Cell], runs: Iterable[str], recipe: Recipe, drops: Iterable[Drop]) -> Plasticity:
    """The curves that ``cells`` make, in the order in which rates and kinds of regeneration come up in them."""
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


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of a JSON document is of a type of ``Cell``; whole numbers are numbers too, booleans are not."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(kind))
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) and abs(value) < 2**53 if kind is float else isinstance(value, kind)
