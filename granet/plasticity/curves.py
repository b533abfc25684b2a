"""Recovery curves: pruning plasticity over the training, with statistics over seeds.

Plasticity (Liu et al. 2021, arXiv 2106.10404, section 3) is the accuracy of a network that was pruned in the middle of
its training and then trained a little longer, minus the accuracy before it was pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from granet.analysis.comparison import Statistic
from granet.plasticity.results import Cell


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
class LearningRateDrop:
    """A step at which the schedule lowers the learning rate."""

    step: int
    epoch: float
    before: float
    after: float


def recovery_curves(cells: Sequence[Cell]) -> tuple[RecoveryCurve, ...]:
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
    return tuple(curves)


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
