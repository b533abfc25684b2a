"""The active weights of each layer over a run, and what they cost, predicted before it.

Counts of the whole network are exact, and so are those of every layer where the method itself decides them. Where
magnitudes over all layers decide (scope network), the layers are counted as the initial weights would have them, and
where momenta do (SNFS), as they are at the start: an estimate, marked as one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from granet import flops
from granet.allocation import total_budget
from granet.history.changes import entropy_bits
from granet.masks import mapping
from granet.methods import SNFS
from granet.methods.base import Method
from granet.methods.pruning import Pruning
from granet.methods.snapshot import Snapshot
from granet.methods.swapping import Swapping
from granet.methods.update import draw_masks, update_topology

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
class Trajectory:
    """The masks of a method over a whole run, as numbers."""

    total_steps: int
    parameters: int
    """Maskable weights."""
    shapes: Mapping[str, tuple[int, ...]]
    stages: tuple[Stage, ...]
    """The start, and where density falls: all of that or, of many prunes, the first, the last and some between."""
    estimated: str
    """Why the counts of the layers are an estimate; empty when they are exact."""
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
    """The size of the history of the masks if no weight is grown at once where it was dropped: about the most."""

    @property
    def first(self) -> Stage:
        """The first stage: the network before training."""
        return self.stages[0]

    @property
    def last(self) -> Stage:
        """The last stage: the network after training."""
        return self.stages[-1]


def predict_trajectory(
    method: Method,
    weights: Mapping[str, Tensor],
    costs: Mapping[str, float],
    *,
    total_steps: int,
    batch_size: int,
    seed: int,
) -> Trajectory:
    """Return the trajectory that ``method`` would take over a network.

    Args:
        method: of the run, with its durations in steps.
        weights: the initial values of all maskable weights.
        costs: dense FLOPs of inference on one image by parameter name, from ``flops.layers``; those without a mask
            count as dense.
        total_steps: optimizer steps of the run.
        batch_size: images in each of them.
        seed: key of the initial masks.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
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
    prediction = _Prediction(method, stages, prunes, swaps, shapes, costs, total_steps)
    dense = sum(costs.values())
    return Trajectory(
        total_steps=total_steps,
        parameters=sum(map(prod, shapes.values())),
        shapes=shapes,
        stages=stages,
        estimated=_estimated(method),
        prunes=prunes,
        swaps=swaps,
        updates=len(prediction.updates),
        dense_flops=dense,
        first_flops=prediction.flops(stages[0].active),
        active_flops=prediction.flops(stages[-1].active),
        training_flops=batch_size * prediction.training_flops(),
        dense_training_flops=batch_size * total_steps * flops.training_step(dense, dense),
        reach=prediction.reach(),
        history_bytes=prediction.history_bits() / 8,
    )


def inference_flops(
    layers: Mapping[str, float], shapes: Mapping[str, tuple[int, ...]], costs: Mapping[str, float]
) -> float:
    """Return f_S of one image.

    Args:
        layers: active weights of each masked layer.
        shapes: of the maskable weights.
        costs: dense FLOPs by parameter name; those without a mask count as dense.
    """
    unmasked = sum(cost for name, cost in costs.items() if name not in shapes)
    return unmasked + sum(costs.get(name, 0.0) * count / prod(shapes[name]) for name, count in layers.items())


def training_flops(
    method: Method,
    stretches: Iterable[tuple[int, float]],
    updates: Iterable[tuple[int, float]],
    *,
    dense: float,
    total_steps: int,
) -> float:
    """Return the FLOPs of all training steps, on one image each.

    A method with gradient momentum needs the dense gradient at every step, others at some of their updates.

    Args:
        method: of the run.
        stretches: numbers of steps, and f_S of their masks.
        updates: the step of each update, and f_S of the masks before it, with which the step computes.
        dense: f_D.
        total_steps: optimizer steps of the run.
    """
    always = method.momentum_decay is not None
    total = 0.0
    for steps, sparse in stretches:
        total += steps * flops.training_step(sparse, dense, dense_gradient=always)
    for step, sparse in updates:
        if not always and method.needs_gradients(step, total_steps):
            total += dense - sparse
    return total


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
    """Carry out some of the prunes, of untrained weights and without swapping."""
    drawn = draw_masks(method, shapes, seed=seed)
    masks: mapping.Masks = {name: mask.to(weights[name].device) for name, mask in drawn.items()}
    stages = [_stage(0, masks)]
    # A swap that cannot rank its gradients is left out, and none would change what a layer has.
    unknown = {name: torch.full((1,), torch.nan) for name in list(shapes)[:1]}
    momenta = {n: torch.zeros_like(w) for n, w in weights.items()} if method.momentum_decay is not None else {}
    for step in _spread(prunes):
        snapshot = Snapshot(
            step=step,
            total_steps=total_steps,
            weights={name: weight.detach() for name, weight in weights.items()},
            gradients=unknown,
            momenta=momenta,
            masks=masks,
            seed=seed,
        )
        masks = update_topology(method, snapshot).masks
        stages.append(_stage(step, masks))
    return tuple(stages)


def _spread(steps: Sequence[int]) -> list[int]:
    """Return the first, the last, and others evenly between."""
    if len(steps) <= _STAGES:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (_STAGES - 1))] for number in range(_STAGES)]


def _stage(step: int, masks: mapping.Masks) -> Stage:
    layers = mapping.active(masks)
    return Stage(step=step, active=sum(layers.values()), density=mapping.density(masks), layers=layers)


class _Prediction:
    """Layers and costs at any number of active weights, interpolated linearly between the stages."""

    def __init__(
        self,
        method: Method,
        stages: Sequence[Stage],
        prunes: Sequence[tuple[int, int]],
        swaps: Sequence[int],
        shapes: Mapping[str, tuple[int, ...]],
        costs: Mapping[str, float],
        total_steps: int,
    ) -> None:
        self._method, self._prunes, self._swaps, self._total_steps = method, prunes, swaps, total_steps
        self._stages = sorted(stages, key=lambda stage: stage.active)
        self._sizes = {name: prod(shape) for name, shape in shapes.items()}
        self._flops = [inference_flops(stage.layers, shapes, costs) for stage in self._stages]
        self._dense = sum(costs.values())
        self._counts = [self._stages[-1].active, *(kept for _, kept in prunes)]
        """Active weights at the start, and after each prune."""
        self.updates = sorted({*swaps, *(step for step, _ in prunes)})

    def layers(self, active: int) -> dict[str, float]:
        """Return the active weights of each layer."""
        low, high, share = self._between(active)
        one, other = self._stages[low].layers, self._stages[high].layers
        return {name: count + share * (other[name] - count) for name, count in one.items()}

    def flops(self, active: int) -> float:
        """Return f_S."""
        low, high, share = self._between(active)
        return self._flops[low] + share * (self._flops[high] - self._flops[low])

    def _between(self, active: int) -> tuple[int, int, float]:
        """Return the indices of the stages around a number of active weights, and its place between them, 0 to 1."""
        counts = [stage.active for stage in self._stages]
        high = min(bisect_left(counts, active), len(counts) - 1)
        low = max(high - 1, 0)
        span = counts[high] - counts[low]
        return low, high, (active - counts[low]) / span if span else 0.0

    def training_flops(self) -> float:
        """Return the FLOPs of all steps, on one image each."""
        times = [0, *(step for step, _ in self._prunes), self._total_steps]
        stretches = [
            (end - begin, self.flops(active))
            for (begin, end), active in zip(pairwise(times), self._counts, strict=True)
        ]
        updates = [(step, self.flops(self._counts[bisect_left(self._prunes, (step, 0))])) for step in self.updates]
        return training_flops(self._method, stretches, updates, dense=self._dense, total_steps=self._total_steps)

    def reach(self) -> float:
        """Return the share of the weights that can ever be active."""
        parameters = sum(self._sizes.values())
        grown = sum(sum(layers.values()) for layers in self._swapped().values())
        return min((self._counts[0] + grown) / parameters, 1.0) if parameters else 1.0

    def history_bits(self) -> float:
        """Return the entropy of the history: of what each update prunes or drops, and grows, in each layer."""
        bits = 0.0
        before = self.layers(self._counts[0])
        swapped, pruned = self._swapped(), dict(self._prunes)
        for step in self.updates:
            after = self.layers(pruned[step]) if step in pruned else before
            counts = swapped.get(step, {})
            sizes = []
            for name, count in before.items():
                active, others = round(count), self._sizes[name] - round(count)
                grown = min(round(counts.get(name, 0.0)), others)
                lost = min(max(round(count - after[name]), 0) + grown, active)
                sizes += [(lost, active), (grown, others)]
            bits += entropy_bits(sizes)
            before = after
        return bits

    def _swapped(self) -> dict[int, dict[str, float]]:
        """Return how many weights each layer drops and grows, by the step of each swap."""
        method = self._method
        if not isinstance(method, Swapping):
            return {}
        swapped = {}
        for step in self._swaps:
            fraction = method.fraction(step, self._total_steps)
            layers = self.layers(self._counts[bisect_left(self._prunes, (step + 1, 0))])
            # Where all weights are active nothing can move.
            swapped[step] = {
                name: min(type(method).rounding(fraction * count), count)
                for name, count in layers.items()
                if round(count) < self._sizes[name]
            }
        return swapped
