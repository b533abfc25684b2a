"""The plan of a rewind: densities, steps, learning rates, FLOPs and bytes of each round, before it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from granet import flops
from granet.analysis.trajectory import training_flops
from granet.checkpoint import Checkpoint, codec
from granet.masks.mapping import Masks, active, density
from granet.methods.base import Method
from granet.recipe import build_method
from granet.recipe.learning_rate import learning_rate
from granet.rewinding.plan import round_of
from granet.rewinding.start_state import child, load_sources, masks_for, pruned
from granet.runs.retention import Retention


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """One round of pruning and retraining.

    Attributes:
        round: which one, from 1.
        density, active: after its pruning, of the masked weights.
        start, steps: the step that the clock is set to, and optimizer steps from there.
        first_learning_rate, last_learning_rate: of these steps.
        training_flops: of all its steps over all their images: 3 f_S each, 2 f_S + f_D where a swap looks at dense
            gradients.
        bytes: what its checkpoints take on disk.
    """

    round: int
    density: float
    active: int
    start: int
    steps: int
    first_learning_rate: float
    last_learning_rate: float
    training_flops: float
    bytes: int


def preview(model: nn.Module, fresh: Checkpoint) -> list[RoundPlan]:
    """Return the rounds that the recipe of ``fresh`` leads to, the state of ``model`` at step 0.

    Masks are known for the first round. Those of later ones are taken as if all were pruned from the present
    weights: their densities are exact, FLOPs and sizes are estimates.

    Raises:
        FileError: a checkpoint that the recipe names is missing.
        CheckpointError: it is damaged or has changed.
    """
    first = fresh.recipe.rewind
    assert first is not None  # noqa: S101  it came from ``plan``
    parent, point = load_sources(first)
    shape = (fresh.network.in_channels, fresh.network.image_size, fresh.network.image_size)
    dense = flops.inference(model, shape)
    steps_per_epoch = fresh.progress["steps_per_epoch"]
    masks: Masks = masks_for(parent, fresh.masks)
    plans: list[RoundPlan] = []
    sizes: dict[int, int] = {}
    for number, target in enumerate(first.densities, 1):
        recipe = round_of(fresh.recipe, number)
        section = recipe.rewind
        assert section is not None  # noqa: S101  so ``round_of`` made it
        masks = pruned(parent.weights, masks, target, section.scope)
        sparse = flops.inference(model, shape, {name: density({name: mask}) for name, mask in masks.items()})
        method, total = build_method(recipe, steps_per_epoch), section.start + section.steps
        kept = sum(active(masks).values())
        if number in (1, len(first.densities)):
            predicted = replace(child(parent, point, masks, section.parent_hash), accumulators=fresh.accumulators)
            sizes[kept] = len(codec.encode(predicted))
        updates = [(step, sparse) for step in _updates(method, section.start, total)]
        an_image = training_flops(method, [(section.steps, sparse)], updates, dense=dense, total_steps=total)
        plans.append(
            RoundPlan(
                round=number,
                density=density(masks),
                active=kept,
                start=section.start,
                steps=section.steps,
                first_learning_rate=learning_rate(recipe, section.start, steps_per_epoch),
                last_learning_rate=learning_rate(recipe, total - 1, steps_per_epoch),
                training_flops=recipe.training.batch_size * an_image,
                bytes=len(Retention.of(recipe, steps_per_epoch).steps_at_end(section.start, total)),
            )
        )
    # The size of a checkpoint is about a straight line over its active weights; its two ends are enough.
    counts = sorted(sizes)
    bytes_at = [sizes[count] for count in counts]
    return [replace(plan, bytes=plan.bytes * round(float(np.interp(plan.active, counts, bytes_at)))) for plan in plans]


def _updates(method: Method, start: int, total: int) -> Iterable[int]:
    """Return the steps after ``start`` at which an update may be due."""
    interval = getattr(method, "interval", None)
    return () if interval is None else range(start - start % interval + interval, total + 1, interval)
