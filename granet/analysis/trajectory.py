"""How a method is going to go: the active weights of each layer over time, and what that costs.

Counts of the whole network are exact, and so are those of every layer where the method itself decides them. Where
magnitudes over all layers do (GraNet, GMP), the layers are told as the initial weights would have them, and where
momenta do (SNFS), as they are at the start: an estimate, and said to be one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from granet.allocation import total_budget
from granet.history.changes import entropy_bits
from granet.layers import flops
from granet.masks import mapping
from granet.methods import SNFS
from granet.methods.base import Method
from granet.methods.pruning import Pruning
from granet.methods.swapping import Swapping
from granet.methods.update import initial_masks, update_topology

_STAGES = 12
"""Prunes that are carried out to see where they lead; between them layers follow the density."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The network after ``step`` optimizer steps, at which its density changed."""

    step: int
    active: int
    density: float
    layers: Mapping[str, int]
    """Active weights of each layer."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A method over a whole run."""

    total_steps: int
    parameters: int
    """Maskable weights."""
    shapes: Mapping[str, tuple[int, ...]]
    stages: tuple[Stage, ...]
    """The start, and where density falls: all of that or, of many prunes, the first, the last and some between."""
    estimated: str
    """Why the counts of the layers are an estimate, or nothing when they are exact."""
    prunes: tuple[tuple[int, int], ...]
    """The step of every prune, and how many weights are active after it: exact."""
    swaps: tuple[int, ...]
    """The step of every swap."""
    updates: int
    """Steps with a prune, a swap or both."""
    dense_flops: float
    """Of inference on one image with the dense network: f_D."""
    first_flops: float
    """With the masks of the start."""
    active_flops: float
    """With those of the end: f_S."""
    training_flops: float
    """Of all steps on all their images: 3 f_S each, 2 f_S + f_D where the dense gradient is needed."""
    dense_training_flops: float
    """The same without masks: 3 f_D each."""
    reach: float
    """The exploration rate if no swap grew a weight that had been active before: an upper bound, 0 to 1."""
    history_bytes: float
    """What the history of the masks costs if no weight is grown at once where it was dropped: about the most."""

    @property
    def first(self) -> Stage:
        """The start."""
        return self.stages[0]

    @property
    def last(self) -> Stage:
        """The end."""
        return self.stages[-1]


def foresee(
    method: Method,
    weights: Mapping[str, Tensor],
    costs: Mapping[str, float],
    *,
    total_steps: int,
    batch_size: int,
    seed: int,
) -> Course:
    """The course of ``method`` over a network.

    Args:
        method: what is going to be done.
        weights: the initial values of all maskable weights.
        costs: dense FLOPs of inference on one image by parameter name, from ``flops.layers``; those without a mask
            count as dense.
        total_steps: optimizer steps of the run.
        batch_size: images in each of them.
        seed: key of the initial masks.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    parameters = sum(map(prod, shapes.values()))
    steps = range(1, total_steps + 1)
    prunes: tuple[tuple[int, int], ...] = ()
    if isinstance(method, Pruning):
        prunes = tuple(
            (step, total_budget(shapes, method.scheduled_density(step, total_steps)))
            for step in steps
            if method.prunes(step, total_steps)
        )
    swaps = tuple(step for step in steps if method.swaps(step, total_steps))
    stages = _stages(method, weights, shapes, [step for step, _ in prunes], total_steps, seed)
    between = _Between(stages, shapes, costs)
    dense = sum(costs.values())
    return Course(
        total_steps=total_steps,
        parameters=parameters,
        shapes=shapes,
        stages=stages,
        estimated=_estimated(method),
        prunes=prunes,
        swaps=swaps,
        updates=len({*(step for step, _ in prunes), *swaps}),
        dense_flops=dense,
        first_flops=between.flops(stages[0].active),
        active_flops=between.flops(stages[-1].active),
        training_flops=batch_size * _training(method, between, prunes, swaps, dense, total_steps),
        dense_training_flops=batch_size * total_steps * flops.training_step(dense, dense),
        reach=_reach(method, between, prunes, swaps, total_steps, parameters),
        history_bytes=_history(method, between, prunes, swaps, total_steps) / 8,
    )


def _estimated(method: Method) -> str:
    if isinstance(method, Pruning) and method.scope == "network":
        return "by the magnitudes of the initial weights: training decides which layers are pruned most"
    if isinstance(method, SNFS):
        return "as at the start: momenta decide how the layers share what they are given"
    return ""


def _stages(
    method: Method,
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    prunes: Sequence[int],
    total_steps: int,
    seed: int,
) -> tuple[Stage, ...]:
    """Carries out some of the prunes, of untrained weights and without swapping."""
    drawn = initial_masks(method, shapes, seed=seed)
    present: mapping.Masks = {name: mask.to(weights[name].device) for name, mask in drawn.items()}
    stages = [_stage(0, present)]
    # A swap that cannot rank its gradients is left out, and none would change what a layer has.
    unknown = {name: torch.full((1,), torch.nan) for name in list(shapes)[:1]}
    momenta = {n: torch.zeros_like(w) for n, w in weights.items()} if method.momentum_decay is not None else {}
    for step in _spread(prunes):
        update = update_topology(
            method,
            step=step,
            total_steps=total_steps,
            weights={name: weight.detach() for name, weight in weights.items()},
            gradients=unknown,
            momenta=momenta,
            masks=present,
            seed=seed,
        )
        present = update.masks
        stages.append(_stage(step, present))
    return tuple(stages)


def _spread(steps: Sequence[int]) -> list[int]:
    """The first, the last, and others evenly between."""
    if len(steps) <= _STAGES:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (_STAGES - 1))] for number in range(_STAGES)]


def _stage(step: int, present: mapping.Masks) -> Stage:
    layers = mapping.active(present)
    return Stage(step=step, active=sum(layers.values()), density=mapping.density(present), layers=layers)


class _Between:
    """Layers and costs at any number of active weights, by straight lines between the stages."""

    def __init__(
        self, stages: Sequence[Stage], shapes: Mapping[str, tuple[int, ...]], costs: Mapping[str, float]
    ) -> None:
        self.stages = sorted(stages, key=lambda stage: stage.active)
        self.sizes = {name: prod(shape) for name, shape in shapes.items()}
        unmasked = sum(cost for name, cost in costs.items() if name not in shapes)
        self._costs = [
            unmasked + sum(costs.get(name, 0.0) * n / self.sizes[name] for name, n in stage.layers.items())
            for stage in self.stages
        ]

    def layers(self, active: int) -> dict[str, float]:
        """Active weights of each layer."""
        low, high, share = self._place(active)
        one, other = self.stages[low].layers, self.stages[high].layers
        return {name: count + share * (other[name] - count) for name, count in one.items()}

    def flops(self, active: int) -> float:
        """f_S."""
        low, high, share = self._place(active)
        return self._costs[low] + share * (self._costs[high] - self._costs[low])

    def _place(self, active: int) -> tuple[int, int, float]:
        counts = [stage.active for stage in self.stages]
        high = min(bisect_left(counts, active), len(counts) - 1)
        low = max(high - 1, 0)
        span = counts[high] - counts[low]
        return low, high, (active - counts[low]) / span if span else 0.0


def _training(
    method: Method,
    between: _Between,
    prunes: Sequence[tuple[int, int]],
    swaps: Iterable[int],
    dense: float,
    total_steps: int,
) -> float:
    """FLOPs of all steps, on one image each. A running sum of gradients needs them dense at every step."""
    always = method.momentum_decay is not None
    total = 0.0
    active = _start(between)
    for (begin, now), (end, _) in pairwise([(0, active), *prunes, (total_steps, 0)]):
        sparse = between.flops(now)
        total += (end - begin) * flops.training_step(sparse, dense, dense_gradient=always)
    if not always:
        # What an update at its step is asked for in addition, with the masks before it.
        counts = [active, *(kept for _, kept in prunes)]
        for step in sorted({*swaps, *(step for step, _ in prunes)}):
            if method.needs_gradients(step, total_steps):
                total += dense - between.flops(counts[bisect_left(prunes, (step, 0))])
    return total


def _start(between: _Between) -> int:
    return max(stage.active for stage in between.stages)


def _reach(
    method: Method,
    between: _Between,
    prunes: Sequence[tuple[int, int]],
    swaps: Iterable[int],
    total_steps: int,
    parameters: int,
) -> float:
    grown = sum(sum(counts.values()) for _, _, counts in _swapped(method, between, prunes, swaps, total_steps))
    return min((_start(between) + grown) / parameters, 1.0) if parameters else 1.0


def _history(
    method: Method, between: _Between, prunes: Sequence[tuple[int, int]], swaps: Iterable[int], total_steps: int
) -> float:
    """Bits of the history: for every update and layer what is pruned or dropped, and what is grown."""
    bits = 0.0
    before = between.layers(_start(between))
    moved = {step: (kept, counts) for step, kept, counts in _swapped(method, between, prunes, swaps, total_steps)}
    pruned = dict(prunes)
    for step in sorted({*moved, *pruned}):
        after = between.layers(pruned[step]) if step in pruned else before
        counts = moved[step][1] if step in moved else {}
        sizes = []
        for name, count in before.items():
            active, others = round(count), between.sizes[name] - round(count)
            grown = min(round(counts.get(name, 0.0)), others)
            lost = min(max(round(count - after[name]), 0) + grown, active)
            sizes += [(lost, active), (grown, others)]
        bits += entropy_bits(sizes)
        before = after
    return bits


def _swapped(
    method: Method, between: _Between, prunes: Sequence[tuple[int, int]], swaps: Iterable[int], total_steps: int
) -> list[tuple[int, int, dict[str, float]]]:
    """Each swap: its step, the active weights then, and how many each layer drops and grows."""
    if not isinstance(method, Swapping):
        return []
    found = []
    kept = [_start(between), *(count for _, count in prunes)]
    for step in swaps:
        active = kept[bisect_left(prunes, (step + 1, 0))]
        fraction = method.fraction(step, total_steps)
        layers = between.layers(active)
        # Where all weights are active nothing can move.
        moving = {
            name: min(type(method).rounding(fraction * count), count)
            for name, count in layers.items()
            if round(count) < between.sizes[name]
        }
        found.append((step, active, moving))
    return found
