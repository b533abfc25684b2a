"""Changing which weights are active: prune, drop, grow, swap.

Pure functions from weights, scores and masks to new masks. Tensors are keyed by parameter name; layers are taken in the
order of ``masks``. Selection is exact: see ``granet.masks.selection``. Packed masks give packed masks, others a dict of
bool tensors in their memory formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from granet.errors import UsageError
from granet.masks.mapping import Masks, active, density
from granet.masks.packed import PackedMasks
from granet.masks.selection import Counts, Tensors, best


def prune_to(weights: Tensors, masks: Masks, keep: int | Counts) -> Masks:
    """Keep the active weights that are largest in magnitude.

    Args:
        weights: floating point, at least for every name in ``masks``.
        masks: what is active now.
        keep: active weights afterwards. A number is that of the whole network, in which all weights compete: from the
            number of layers to the number active now. A mapping has the number of each layer, whose weights compete
            among themselves.

    Returns:
        Masks within ``masks`` with exactly that many active weights. With one number for the network no layer is
        emptied: where the magnitudes alone would do that, the layer's largest weight stays and the smallest of those
        chosen elsewhere goes instead.

    Raises:
        UsageError: ``keep`` out of range, or a weight that is NaN.
    """
    present = PackedMasks.of(masks)
    if isinstance(keep, Mapping):
        return _like(masks, best(weights, present, keep))
    before = present.counts
    layers, available = sum(count > 0 for count in before.values()), sum(before.values())
    if not layers <= keep <= available:
        raise UsageError(
            "cannot keep that many", got=keep, expected=f"{layers} (one a layer) to {available} (active now)"
        )
    pruned = best(weights, present, keep)
    if any(before[name] and not count for name, count in pruned.counts.items()):
        # The largest active weight of each layer is set aside; all others compete for what is left of the budget.
        largest = best(weights, present, {name: min(count, 1) for name, count in before.items()})
        pruned = largest.union(best(weights, present.without(largest), keep - layers))
    return _like(masks, pruned)


def drop(weights: Tensors, masks: Masks, counts: Counts) -> Masks:
    """Drop the ``counts[name]`` active weights that are smallest in magnitude in each layer."""
    return prune_to(weights, masks, {name: count - counts[name] for name, count in active(masks).items()})


def grow(scores: Tensors, masks: Masks, counts: Counts) -> Masks:
    """Activate the ``counts[name]`` inactive weights that have the largest score, in magnitude, in each layer."""
    present = PackedMasks.of(masks)
    grown = best(scores, present, counts, inactive=True)
    grown.bits |= present.bits
    grown.counts = {name: count + counts[name] for name, count in present.counts.items()}
    return _like(masks, grown)


def swap(weights: Tensors, gradients: Tensors, masks: Masks, counts: Counts) -> Masks:
    """Drop the smallest weights of each layer and grow as many where the gradient is largest.

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
    present = PackedMasks.of(masks)
    moving = present.only(name for name in masks if counts[name])
    swapped = PackedMasks.of(grow(gradients, drop(weights, moving, counts), counts))
    return _like(masks, swapped if len(moving) == len(masks) else present.updated(swapped))


def _like(masks: Masks, result: PackedMasks) -> Masks:
    """Return ``result``, as a dict of tensors unless ``masks`` are packed."""
    return result if isinstance(masks, PackedMasks) else dict(result)


@dataclass(frozen=True, eq=False)
class TopologyUpdate:
    """A change of topology, from ``before`` through ``pruned`` to ``masks``.

    Attributes:
        step: the optimizer step after which it happened.
        before: masks before the update. All three are packed: looking one up makes a new bool tensor.
        pruned: masks after pruning; ``before`` itself when nothing was pruned.
        masks: masks after the update.
        note: why a part of the update was left out, or empty.
    """

    step: int
    before: Masks
    pruned: Masks
    masks: Masks
    note: str = ""

    def __post_init__(self) -> None:
        # Packed, an update is small, and independent of later changes to the masks it was made of.
        before = PackedMasks.of(self.before)
        object.__setattr__(self, "before", before)
        for name in ("pruned", "masks"):
            object.__setattr__(self, name, PackedMasks.of(getattr(self, name), before.layout))

    @property
    def survivors(self) -> Masks:
        """Weights active throughout, which keep their values and optimizer state; all others become 0. Not cached.

        A weight pruned and grown again in the same update restarts at zero; one dropped and grown again was in
        ``pruned`` all the time and keeps everything.
        """
        return PackedMasks.of(self.pruned).intersection(PackedMasks.of(self.masks))

    @property
    def density(self) -> float:
        """Density after the update, in (0, 1]."""
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
