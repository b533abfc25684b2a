"""Apply a method through its granularity: initial masks and updates."""

from __future__ import annotations

from dataclasses import replace

import torch

from granet.allocation import Shapes
from granet.masks import mapping
from granet.masks.mapping import Masks
from granet.masks.random_scores import UniformScores
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


def update_topology(method: Method, weights: Snapshot) -> TopologyUpdate:
    """Return the change of masks that ``method`` makes of this snapshot of weights."""
    granularity = GRANULARITIES[method.granularity]
    update = method.update(granularity.coarsen(weights))
    pruned, masks = (granularity.refine(units, weights.weights) for units in (update.pruned, update.masks))
    return replace(update, before=weights.masks, pruned=pruned, masks=masks)
