"""Changing which weights are active: prune, drop, grow, swap.

Pure functions from weights, scores and masks to new masks; nothing is modified. Tensors are keyed by parameter
name, and layers are taken in the order of ``masks``. Selection is exact: see ``granet.selection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from granet.errors import UsageError
from granet.masks import Masks, active, density
from granet.selection import top_k

Tensors = Mapping[str, Tensor]
Counts = Mapping[str, int]


def prune_to(weights: Tensors, masks: Masks, keep: int) -> dict[str, Tensor]:
    """Keeps the ``keep`` active weights that are largest in magnitude over all layers together.

    No layer is emptied: where the magnitudes alone would do that, the layer's largest weight stays and the
    smallest of those chosen elsewhere goes instead.

    Args:
        weights: floating point, at least for every name in ``masks``.
        masks: what is active now.
        keep: active weights afterwards, from the number of layers to the number active now.

    Returns:
        Masks within ``masks`` with exactly ``keep`` active weights.

    Raises:
        UsageError: ``keep`` out of range, or a weight that is NaN.
    """
    sizes = [mask.numel() for mask in masks.values()]
    before = active(masks)
    layers, available = sum(count > 0 for count in before.values()), sum(before.values())
    if not layers <= keep <= available:
        raise UsageError(
            "cannot keep that many", got=keep, expected=f"{layers} (one a layer) to {available} (active now)"
        )
    if not masks:
        return {}
    present = torch.cat([mask.reshape(-1) for mask in masks.values()])
    scores = torch.cat([_magnitude(weights[name]).reshape(-1) for name in masks])
    if bool(scores.amax().isnan()):
        for name, mask in masks.items():  # which layer it is only matters now
            top_k(weights[name], before[name], mask, where=name)
    pruned = _split(top_k(scores, keep, present), masks, sizes)
    if any(before[name] and not count for name, count in active(pruned).items()):
        # The largest active weight of each layer is set aside; all others compete for what is left of the budget.
        largest = prune_each(weights, masks, {name: min(count, 1) for name, count in before.items()})
        present &= ~torch.cat([mask.reshape(-1) for mask in largest.values()])
        others = _split(top_k(scores, keep - layers, present), masks, sizes)
        pruned = {name: mask | others[name] for name, mask in largest.items()}
    return pruned


def _split(flat: Tensor, masks: Masks, sizes: list[int]) -> dict[str, Tensor]:
    """Pieces of ``flat`` in the shapes of ``masks``, each with its own storage."""
    parts = torch.split(flat, sizes)
    return {name: part.view(mask.shape).clone() for (name, mask), part in zip(masks.items(), parts, strict=True)}


def prune_each(weights: Tensors, masks: Masks, budgets: Counts) -> dict[str, Tensor]:
    """Keeps the ``budgets[name]`` active weights that are largest in magnitude in each layer by itself."""
    return {name: top_k(_magnitude(weights[name]), budgets[name], mask, where=name) for name, mask in masks.items()}


def drop(weights: Tensors, masks: Masks, counts: Counts) -> dict[str, Tensor]:
    """Drops the ``counts[name]`` active weights that are smallest in magnitude in each layer."""
    budgets = {name: count - counts[name] for name, count in active(masks).items()}
    return prune_each(weights, masks, budgets)


def grow(scores: Tensors, masks: Masks, counts: Counts) -> dict[str, Tensor]:
    """Activates the ``counts[name]`` inactive weights that have the largest score, in magnitude, in each layer."""
    return {
        name: mask | top_k(_magnitude(scores[name]), counts[name], ~mask, where=name) for name, mask in masks.items()
    }


def swap(weights: Tensors, gradients: Tensors, masks: Masks, counts: Counts) -> dict[str, Tensor]:
    """Drops the smallest weights of each layer and grows as many where the gradient is largest.

    Those just dropped can be grown again, and then have not changed at all. Growth never picks a position that
    is still active, also when all gradients are zero.

    Args:
        weights: floating point, for every name in ``masks``.
        gradients: dense gradients of the same shapes; only magnitudes matter.
        masks: what is active now.
        counts: how many to drop and to grow in each layer, from 0 to the number active there.

    Returns:
        Masks with as many active weights in each layer as before.

    Raises:
        UsageError: a count out of range, or NaN in weights or gradients.
    """
    moving = [name for name in masks if counts[name]]
    before = {name: masks[name] for name in moving}
    return {**masks, **grow(gradients, drop(weights, before, counts), counts)}


def _magnitude(tensor: Tensor) -> Tensor:
    return tensor.detach().abs()


@dataclass(frozen=True, eq=False)
class TopologyUpdate:
    """One change of topology, from ``before`` through ``pruned`` to ``masks``.

    Attributes:
        step: the optimizer step after which it happened.
        before: masks before the update.
        pruned: masks after pruning; ``before`` itself when nothing was pruned.
        masks: masks after the update.
        note: why a part of the update was left out, or empty.
    """

    step: int
    before: Masks
    pruned: Masks
    masks: Masks
    note: str = ""

    @cached_property
    def survivors(self) -> dict[str, Tensor]:
        """What was active all the way: these weights keep their values and optimizer state, all others are 0.

        A weight pruned and grown again in the same update restarts at zero; one dropped and grown again has
        never left ``pruned`` and keeps everything.
        """
        return {name: self.pruned[name] & mask for name, mask in self.masks.items()}

    @property
    def density(self) -> float:
        """Density after the update."""
        return density(self.masks)

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """For each layer: ``active`` afterwards, ``pruned``, ``dropped`` and ``grown``.

        Dropped and grown count positions that really changed; one dropped and grown at once is in neither.
        """
        before, pruned, survived, after = map(active, (self.before, self.pruned, self.survivors, self.masks))
        return {
            name: {
                "active": after[name],
                "pruned": before[name] - pruned[name],
                "dropped": pruned[name] - survived[name],
                "grown": after[name] - survived[name],
            }
            for name in self.masks
        }
