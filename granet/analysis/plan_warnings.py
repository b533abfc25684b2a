"""Warnings about the plan of a run: what is likely to go wrong, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod

from granet.analysis.trajectory import Trajectory
from granet.errors import counted, listing
from granet.flops import WITHOUT_WEIGHTS
from granet.methods.base import Method
from granet.methods.pruning import Pruning
from granet.methods.swapping import Swapping

FEWEST_PRUNES = 5
"""With fewer prunes each removes many weights at once."""
FEWEST_SWAPS = 10
"""With fewer swaps few weights are explored."""
LEAST_REACH = 0.5
"""A method that explores should be able to reach at least this share of the weights (2102.02887)."""
LARGEST_DENSE_SHARE = 0.2
"""A dense layer with a larger share of the FLOPs outweighs what the masks save."""
LEAST_SETTLED = 0.1
"""The share of the run that should be left once the final density is reached."""

_MOST_NAMED = 3
_SPARSE = 0.5
"""The largest density at which a network is sparse enough to compare its dense layers."""


@dataclass(frozen=True, kw_only=True)
class Caution:
    """A warning about a planned or finished run: its kind, the layers concerned, a sentence.

    Attributes:
        kind: near-empty-layer, dense-layer, few-prunes, few-swaps, little-exploration or late-density.
        layers: the parameters concerned; empty when it concerns the whole network.
        message: a sentence.
    """

    kind: str
    layers: tuple[str, ...] = ()
    message: str


def cautions(
    trajectory: Trajectory, method: Method, costs: Mapping[str, float], *, steps_per_epoch: int
) -> tuple[Caution, ...]:
    """Return the warnings about a run, the most important first; none for one that looks sound.

    Args:
        trajectory: of ``method``.
        method: of the run.
        costs: dense FLOPs by parameter name; those without a mask count as dense.
        steps_per_epoch: optimizer steps in an epoch.
    """
    found = chain(
        _near_empty(trajectory),
        _dense(trajectory, costs),
        _prunes(trajectory, method),
        _swaps(trajectory, method),
        _late(trajectory, method, steps_per_epoch),
    )
    return tuple(found)


def _near_empty(trajectory: Trajectory) -> Iterator[Caution]:
    """Find layers with fewer active weights than outputs."""
    found = {name: (count, trajectory.shapes[name][0]) for name, count in trajectory.last.layers.items()}
    thin = {name: counts for name, counts in found.items() if counts[0] < counts[1]}
    if thin:
        sentences = [
            f"{name} has {count} active weights for {outputs} outputs" for name, (count, outputs) in thin.items()
        ]
        yield Caution(
            kind="near-empty-layer",
            layers=tuple(thin),
            message=f"{listing(sentences, _MOST_NAMED, separator='; ')}: some of them will be constant"
            + (" (an estimate)" if trajectory.estimated else ""),
        )


def _dense(trajectory: Trajectory, costs: Mapping[str, float]) -> Iterator[Caution]:
    """Find layers without a mask, or fully active under one, that take a large share of the sparse network's FLOPs."""
    if trajectory.last.density > _SPARSE or not trajectory.active_flops:
        return
    full = {n for n, count in trajectory.last.layers.items() if count == prod(trajectory.shapes[n])}
    dense = {name: cost for name, cost in costs.items() if name not in trajectory.shapes or name in full}
    dense.pop(WITHOUT_WEIGHTS, None)  # no setting changes it
    large = {n: cost for n, cost in dense.items() if cost > LARGEST_DENSE_SHARE * trajectory.active_flops}
    if large:
        sentences = [
            f"{name} stays dense and takes {cost / trajectory.active_flops:.0%} of the sparse network's FLOPs "
            f"({cost / trajectory.dense_flops:.0%} of the dense one's)"
            for name, cost in large.items()
        ]
        yield Caution(kind="dense-layer", layers=tuple(large), message=listing(sentences, _MOST_NAMED, separator="; "))


def _prunes(trajectory: Trajectory, method: Method) -> Iterator[Caution]:
    if isinstance(method, Pruning) and len(trajectory.prunes) < FEWEST_PRUNES:
        counts = [trajectory.first.active, *(kept for _, kept in trajectory.prunes)]
        cut = max(1 - after / before for before, after in pairwise(counts))
        yield Caution(
            kind="few-prunes",
            message=f"density falls in {counted(len(trajectory.prunes), 'prune')}, of which the largest takes "
            f"{cut:.0%} of the active weights: shorten the interval or widen the window",
        )


def _swaps(trajectory: Trajectory, method: Method) -> Iterator[Caution]:
    if not isinstance(method, Swapping):
        return
    if len(trajectory.swaps) < FEWEST_SWAPS:
        times = counted(len(trajectory.swaps), "time")
        yield Caution(kind="few-swaps", message=f"weights are swapped {times} only: shorten the interval")
    if trajectory.reach < LEAST_REACH:
        yield Caution(
            kind="little-exploration",
            message=f"at most {trajectory.reach:.0%} of the weights can ever be active: "
            "swap more often, or more at once",
        )


def _late(trajectory: Trajectory, method: Method, steps_per_epoch: int) -> Iterator[Caution]:
    if not isinstance(method, Pruning):
        return
    left = trajectory.total_steps - method.window_end(trajectory.total_steps)
    if left < LEAST_SETTLED * trajectory.total_steps:
        yield Caution(
            kind="late-density",
            message=f"the final density is reached {left / steps_per_epoch:.3g} epochs before the end: only from then "
            "on a best epoch is chosen, and the weights have little time to settle",
        )
