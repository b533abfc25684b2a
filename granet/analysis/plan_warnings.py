"""What somebody who plans a run should think about before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod

from granet.analysis.trajectory import Course
from granet.errors import counted, listing
from granet.methods.base import Method
from granet.methods.pruning import Pruning
from granet.methods.swapping import Swapping

FEWEST_PRUNES = 5
"""Fewer prunes than this take away much at once."""
FEWEST_SWAPS = 10
"""Fewer swaps than this explore little."""
LEAST_REACH = 0.5
"""A method that explores should be able to reach at least this share of the weights (2102.02887)."""
LARGEST_DENSE_SHARE = 0.2
"""A dense layer that takes more than this of the FLOPs eats what the masks save."""
LEAST_SETTLED = 0.1
"""The share of the run that should be left once the final density is reached."""

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Caution:
    """Something to think about.

    Attributes:
        kind: near-empty-layer, dense-layer, few-prunes, few-swaps, little-exploration or late-density.
        layers: the parameters concerned; empty when it is about the whole.
        message: in words.
    """

    kind: str
    layers: tuple[str, ...] = ()
    message: str


def cautions(
    course: Course, method: Method, costs: Mapping[str, float], *, steps_per_epoch: int
) -> tuple[Caution, ...]:
    """What to think about, in the order of its weight; nothing for a run that looks sound.

    Args:
        course: of ``method``.
        method: what is going to be done.
        costs: dense FLOPs by parameter name; those without a mask count as dense.
        steps_per_epoch: optimizer steps in an epoch.
    """
    found = chain(
        _near_empty(course),
        _dense(course, costs),
        _prunes(course, method),
        _swaps(course, method),
        _late(course, method, steps_per_epoch),
    )
    return tuple(found)


def _near_empty(course: Course) -> Iterator[Caution]:
    """Layers with fewer active weights than outputs."""
    found = {name: (count, course.shapes[name][0]) for name, count in course.last.layers.items()}
    thin = {name: counts for name, counts in found.items() if counts[0] < counts[1]}
    if thin:
        told = [f"{name} has {count} active weights for {outputs} outputs" for name, (count, outputs) in thin.items()]
        yield Caution(
            kind="near-empty-layer",
            layers=tuple(thin),
            message=f"{listing(told, _MOST_NAMED, separator='; ')}: some of them will be constant"
            + (" (an estimate)" if course.estimated else ""),
        )


def _dense(course: Course, costs: Mapping[str, float]) -> Iterator[Caution]:
    """Layers without a mask, or wholly active in spite of one, that the sparse network spends its FLOPs on."""
    if course.last.density > LEAST_SETTLED * 5 or not course.active_flops:
        return
    whole = {n for n, count in course.last.layers.items() if count == prod(course.shapes[n])}
    dense = {name: cost for name, cost in costs.items() if name not in course.shapes or name in whole}
    large = {n: cost for n, cost in dense.items() if cost > LARGEST_DENSE_SHARE * course.active_flops}
    if large:
        told = [
            f"{name} stays dense and takes {cost / course.active_flops:.0%} of the sparse network's FLOPs "
            f"({cost / course.dense_flops:.0%} of the dense one's)"
            for name, cost in large.items()
        ]
        yield Caution(kind="dense-layer", layers=tuple(large), message=listing(told, _MOST_NAMED, separator="; "))


def _prunes(course: Course, method: Method) -> Iterator[Caution]:
    if isinstance(method, Pruning) and len(course.prunes) < FEWEST_PRUNES:
        counts = [course.first.active, *(kept for _, kept in course.prunes)]
        cut = max(1 - after / before for before, after in pairwise(counts))
        yield Caution(
            kind="few-prunes",
            message=f"density falls in {counted(len(course.prunes), 'prune')}, of which the largest takes {cut:.0%} "
            "of the active weights: shorten the interval or widen the window",
        )


def _swaps(course: Course, method: Method) -> Iterator[Caution]:
    if not isinstance(method, Swapping):
        return
    if len(course.swaps) < FEWEST_SWAPS:
        times = counted(len(course.swaps), "time")
        yield Caution(kind="few-swaps", message=f"weights are swapped {times} only: shorten the interval")
    if course.reach < LEAST_REACH:
        yield Caution(
            kind="little-exploration",
            message=f"at most {course.reach:.0%} of the weights can ever be active: swap more often, or more at once",
        )


def _late(course: Course, method: Method, steps_per_epoch: int) -> Iterator[Caution]:
    if not isinstance(method, Pruning):
        return
    left = course.total_steps - method.window_end(course.total_steps)
    if left < LEAST_SETTLED * course.total_steps:
        yield Caution(
            kind="late-density",
            message=f"the final density is reached {left / steps_per_epoch:.3g} epochs before the end: only from then "
            "on a best epoch is chosen, and the weights have little time to settle",
        )
