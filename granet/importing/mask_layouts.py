"""Split what a file holds under the names of ``MASK_LAYOUTS`` into weights and masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError
from granet.importing.conventions import MASK_LAYOUTS


def split(
    tensors: Mapping[str, Tensor], known: Collection[str], where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors by plain names, and the masks by the plain names of their weights.

    A mask under the plain name of its weight has to have its shape. What the network, whose names are ``known``, has
    itself under any prefix stays as it is.

    Raises:
        CheckpointError: a weight is there as it is and as pruning keeps it.
    """
    plain: dict[str, str] = {}
    masks: dict[str, Tensor] = {}
    used: set[str] = set()
    free = [name for name in tensors if not _has(known, name)]
    for layout in MASK_LAYOUTS:
        weights = (
            {name: name for name in tensors}
            if layout.weight is None
            else {found: name for name in free if (found := layout.plain_name(layout.weight, name)) is not None}
        )
        for name in free:
            target = layout.plain_name(layout.mask, name)
            if target is None or target not in weights or name in used or target in masks:
                continue
            if layout.weight is None and tensors[target].shape != tensors[name].shape:
                continue
            if layout.weight is not None and target in tensors:
                raise CheckpointError(
                    "a parameter is in the file twice: as it is, and as pruning keeps it",
                    where=f"{where}, tensor {short(target)}",
                    remedy="remove one of the two, or make pruning permanent with torch.nn.utils.prune.remove",
                )
            masks[target] = tensors[name]
            plain[weights[target]] = target
            used.add(name)
    return {plain.get(name, name): tensor for name, tensor in tensors.items() if name not in used}, masks


def _has(known: Collection[str], name: str) -> bool:
    """Whether the network has this name, with or without a prefix."""
    parts = name.split(".")
    return any(".".join(parts[start:]) in known for start in range(min(len(parts), 12)))
