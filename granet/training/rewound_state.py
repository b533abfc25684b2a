"""The state that a rewound run starts from: a pure function of two checkpoints and a recipe.

===========  ==================  =====================  ================
mode         weights, buffers,   clock                  learning rate
             optimizer slots
===========  ==================  =====================  ================
``lr``       of the parent       set back to ``start``  of the schedule
``weights``  of the point        set back to ``start``  of the schedule
``finetune`` of the parent       as it is               constant
===========  ==================  =====================  ================

Masks are always those of the parent, pruned to the density of the round. The order of the data, augmentation and
whatever else is random are functions of seed and step, and so are set back together with the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from granet import allocation
from granet.checkpoint import Checkpoint, Slot, load
from granet.errors import CheckpointError, UsageError
from granet.masks.mapping import Masks, active, density
from granet.runs.lineage import ancestor, ancestors
from granet.topology import prune_to
from granet.training.run import Run, capture

Scope = Literal["global", "uniform"]


def rewound(run: Run) -> Checkpoint:
    """The state that ``run``, begun with a recipe that rewinds, starts from.

    Raises:
        CheckpointError: a checkpoint that the recipe names is gone, damaged or another one by now.
        UsageError: it cannot be pruned to the density of the recipe.
    """
    section = run.recipe.rewind
    assert section is not None  # noqa: S101  whoever calls has looked
    parent = load_exactly(Path(section.parent), section.parent_hash)
    point = parent
    if section.point is not None:
        assert section.point_hash is not None  # noqa: S101  the recipe holds both or none
        point = load_exactly(Path(section.point), section.point_hash)
    if section.mode != "lr" and point.step != section.start:
        raise CheckpointError(
            "the state is not of the step that the recipe sets back to",
            where=section.point or section.parent,
            got=point.step,
            expected=section.start,
        )
    masks = pruned(parent.weights, masks_for(parent, run.sparsifier.masks), section.density, section.scope)
    fresh = capture(run)
    imported = "steps_per_epoch" not in parent.progress  # such weights may not know what their classes are called
    return replace(
        state(parent, point, masks, section.parent_hash),
        recipe=run.recipe,
        network=fresh.network if imported else parent.network,
        step=section.start,
        accumulators=fresh.accumulators,
        progress={**fresh.progress, **_data_of(parent), **_scaler_of(point, fresh)},
    )


def state(parent: Checkpoint, point: Checkpoint, masks: Masks, parent_hash: str) -> Checkpoint:
    """``point`` under ``masks``, as a child of ``parent``: nothing outside them is kept, and history begins anew."""
    return replace(
        point,
        weights={name: _within(masks.get(name), weight) for name, weight in point.weights.items()},
        masks=dict(masks),
        explored=dict(masks),
        optimizer={
            name: {slot: _slot_within(masks.get(name), value) for slot, value in slots.items()}
            for name, slots in point.optimizer.items()
        },
        accumulators={},
        metrics={"epochs": [], "updates": [], "lineage": [*ancestors(parent.metrics), ancestor(parent, parent_hash)]},
    )


def pruned(weights: Mapping[str, Tensor], masks: Masks, target: float, scope: Scope) -> Masks:
    """Masks within ``masks`` at density ``target``, keeping the weights that are largest in magnitude.

    Args:
        weights: at least those that are masked.
        masks: what is active now.
        target: density afterwards, to the weight; the present one changes nothing.
        scope: ``global`` ranks all weights together, ``uniform`` takes the same share of every layer.

    Raises:
        UsageError: a density above the present one, or fewer weights than layers.
    """
    keep = allocation.total_budget({name: mask.shape for name, mask in masks.items()}, target)
    present = active(masks)
    if keep > sum(present.values()):
        raise UsageError(
            "the checkpoint has fewer active weights than that",
            where="density",
            got=f"{target:g}",
            expected=f"at most {density(masks):.6g}",
            remedy="pruning only takes away",
        )
    share = keep / sum(present.values())
    least = {name: min(count, 1) for name, count in present.items()}
    ideal = {name: share * n for name, n in present.items()}
    among: allocation.Scope = "network" if scope == "global" else "layer"
    return prune_to(weights, masks, allocation.scoped_budget(among, keep, ideal, lower=least, upper=present))


def masks_for(parent: Checkpoint, names: Iterable[str]) -> dict[str, Tensor]:
    """The masks of ``parent`` for the layers ``names``; a layer that it did not mask is wholly active."""
    masks = {}
    for name in names:
        if name not in parent.weights:
            raise CheckpointError("the checkpoint belongs to another network", where=name, got="no such weight")
        mask = parent.masks.get(name)
        masks[name] = torch.ones_like(parent.weights[name], dtype=torch.bool) if mask is None else mask
    return masks


def load_exactly(path: Path, expected: str) -> Checkpoint:
    """The checkpoint at ``path``, when it is the one with content hash ``expected``.

    Raises:
        CheckpointError: it is not, is damaged, or is not there.
    """
    checkpoint = load(path)
    if checkpoint.content_hash != expected:
        raise CheckpointError(
            "the checkpoint changed since the run was rewound",
            where=path,
            got=f"content {checkpoint.content_hash[:12]}",
            expected=expected[:12],
            remedy="begin again with granet rewind",
        )
    return checkpoint


def _within(mask: Tensor | None, tensor: Tensor) -> Tensor:
    return tensor if mask is None else torch.where(mask, tensor, tensor.new_zeros(()))


def _slot_within(mask: Tensor | None, slot: Slot) -> Slot:
    shaped = isinstance(slot, Tensor) and mask is not None and slot.shape == mask.shape and slot.dim()
    return _within(mask, slot) if shaped and isinstance(slot, Tensor) else slot


def _data_of(parent: Checkpoint) -> dict[str, Any]:
    """What the parent knew of its data, so that others are refused; imported weights know nothing."""
    return {key: parent.progress[key] for key in ("steps_per_epoch", "examples") if key in parent.progress}


def _scaler_of(point: Checkpoint, fresh: Checkpoint) -> dict[str, Any]:
    """The state of the gradient scaler, where there is one now and was one then."""
    return {"scaler": point.progress["scaler"]} if {"scaler"} <= point.progress.keys() & fresh.progress.keys() else {}
