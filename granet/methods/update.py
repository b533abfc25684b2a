"""From a method to masks of weights: those of the start, and those of every update, through its granularity."""

from __future__ import annotations

from dataclasses import replace

import torch

from granet.allocation import Shapes
from granet.masks import mapping
from granet.masks.mapping import Masks
from granet.masks.random_scores import UniformScores
from granet.masks.selection import Tensors
from granet.methods.base import Method
from granet.methods.granularity import GRANULARITIES
from granet.methods.snapshot import Snapshot
from granet.randomness import key
from granet.topology import TopologyUpdate


def check_method(method: Method, shapes: Shapes, total_steps: int) -> None:
    """Raise UsageError when the method does not fit layers of these ``shapes`` or that many steps."""
    method.check(GRANULARITIES[method.granularity].units(shapes), total_steps)


def draw_masks(method: Method, shapes: Shapes, *, seed: int) -> Masks:
    """Draw the masks that a run starts with: a function of the method, the shapes and the seed alone, on the CPU."""
    granularity = GRANULARITIES[method.granularity]
    units = granularity.units(shapes)
    drawn = mapping.random(units, method.budgets(units), seed=seed)
    keys = {name: key(seed, "mask", name, "within a unit") for name in shapes}
    like = {name: torch.empty(1).expand(*shape) for name, shape in shapes.items()}  # no memory for the scores
    return granularity.refine(drawn, UniformScores(keys, like))


def update_topology(
    method: Method,
    *,
    step: int,
    total_steps: int,
    weights: Tensors,
    gradients: Tensors,
    momenta: Tensors,
    masks: Masks,
    seed: int,
) -> TopologyUpdate:
    """Return the change of masks that ``method`` makes at ``step``; arguments are those of ``Snapshot``."""
    granularity = GRANULARITIES[method.granularity]
    snapshot = Snapshot(
        step=step,
        total_steps=total_steps,
        weights=weights,
        gradients=gradients,
        momenta=momenta,
        masks=masks,
        seed=seed,
    )
    update = method.update(granularity.coarsen(snapshot))
    pruned, refined = (granularity.refine(units, weights) for units in (update.pruned, update.masks))
    return replace(update, before=masks, pruned=pruned, masks=refined)
