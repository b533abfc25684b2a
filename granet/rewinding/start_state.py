"""The state that a rewound run starts from: a function of two checkpoints and a recipe.

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
from typing import Any, Literal

import torch
from torch import Tensor

from granet import allocation
from granet.checkpoint import Checkpoint, load
from granet.errors import CheckpointError, UsageError
from granet.masks.mapping import Masks, active, density
from granet.recipe.sections import RewindSection
from granet.runs.lineage import ancestor, ancestors
from granet.topology import prune_to

Scope = Literal["global", "uniform"]


def start_state(fresh: Checkpoint) -> Checkpoint:
    """Return the state that a rewound run starts from; ``fresh`` is its state at step 0, with weights initialised.

    Raises:
        CheckpointError: a checkpoint that the recipe names is gone, damaged or has changed.
        UsageError: it cannot be pruned to the density of the recipe.
    """
    section = fresh.recipe.rewind
    assert section is not None  # noqa: S101  the caller has looked
    parent, point = load_sources(section)
    if section.mode != "lr" and point.step != section.start:
        raise CheckpointError(
            "the state is not of the step that the recipe sets back to",
            where=section.point or section.parent,
            got=point.step,
            expected=section.start,
        )
    masks = pruned(parent.weights, masks_for(parent, fresh.masks), section.density, section.scope)
    imported = "steps_per_epoch" not in parent.progress  # such weights may not know what their classes are called
    # Data other than the parent's are refused by what it knew of them; imported weights know nothing.
    progress: dict[str, Any] = {
        key: parent.progress[key] for key in ("steps_per_epoch", "examples") if key in parent.progress
    }
    if "scaler" in point.progress and "scaler" in fresh.progress:
        progress["scaler"] = point.progress["scaler"]
    return replace(
        child(parent, point, masks, section.parent_hash),
        recipe=fresh.recipe,
        network=fresh.network if imported else parent.network,
        step=section.start,
        accumulators=fresh.accumulators,
        progress={**fresh.progress, **progress},
    )


def load_sources(section: RewindSection) -> tuple[Checkpoint, Checkpoint]:
    """Load the checkpoint that is pruned and the one that weights are set back to; often the same.

    Raises:
        CheckpointError: one of them has changed, is damaged, or is not there.
    """
    parent = _load_unchanged(section.parent, section.parent_hash)
    if section.point is None or section.point_hash is None:
        return parent, parent
    return parent, _load_unchanged(section.point, section.point_hash)


def child(parent: Checkpoint, point: Checkpoint, masks: Masks, parent_hash: str) -> Checkpoint:
    """Apply ``masks`` to the state ``point``, clear its metrics, and add ``parent`` to its lineage."""
    return masked(
        point,
        masks,
        accumulators={},
        metrics={"epochs": [], "updates": [], "lineage": [*ancestors(parent.metrics), ancestor(parent, parent_hash)]},
    )


def masked(state: Checkpoint, masks: Masks, **changes: Any) -> Checkpoint:
    """Return ``state`` with ``masks``, zeros for weights and optimizer state outside them, and other ``changes``."""

    def within(name: str, tensor: Tensor) -> Tensor:
        mask = masks.get(name)
        if mask is None or tensor.shape != mask.shape:
            return tensor
        return torch.where(mask, tensor, tensor.new_zeros(()))

    return replace(
        state,
        weights={name: within(name, weight) for name, weight in state.weights.items()},
        optimizer={
            name: {slot: within(name, value) if isinstance(value, Tensor) else value for slot, value in slots.items()}
            for name, slots in state.optimizer.items()
        },
        **{"masks": dict(masks), "explored": dict(masks), **changes},
    )


def pruned(weights: Mapping[str, Tensor], masks: Masks, target: float, scope: Scope) -> Masks:
    """Prune ``masks`` to density ``target``: keep the weights that are largest in magnitude.

    The density is met to the weight; the present one changes nothing. Scope ``global`` ranks all weights together,
    ``uniform`` takes the same share of every layer.

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
    """Return the masks of ``parent`` for the layers ``names``; a layer that it did not mask is all active.

    Raises:
        CheckpointError: the parent has no such layer.
    """
    masks = {}
    for name in names:
        if name not in parent.weights:
            raise CheckpointError("the checkpoint belongs to another network", where=name, got="no such weight")
        mask = parent.masks.get(name)
        masks[name] = torch.ones_like(parent.weights[name], dtype=torch.bool) if mask is None else mask
    return masks


def _load_unchanged(path: str, expected: str) -> Checkpoint:
    """Load the checkpoint at ``path`` if its content hash is ``expected``."""
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
