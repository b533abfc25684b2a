"""Find the masks of imported weights: in their file, in another file or, only when asked, from their zeros."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, UsageError, listing, nearest
from granet.importing import names, prefixes, reading
from granet.importing.containers import FoundTensors
from granet.importing.conventions import MASK_LAYOUTS
from granet.importing.reading import ForeignTensors

Origin = Literal["none", "given", "inferred"]
"""Source of masks: none, so that everything is active; given in a file; or inferred from zeros."""


@dataclass(frozen=True, eq=False)
class ImportedMasks:
    """Masks by the name of the weight, in any dtype, their file, and their source for programs and for people."""

    tensors: Mapping[str, Tensor]
    where: str
    origin: Origin
    source: str
    remarks: tuple[str, ...] = ()


def choose(
    file: ForeignTensors,
    mask_file: str | os.PathLike[str] | None,
    inferable: Mapping[str, Tensor] | None,
    *,
    called: Mapping[str, str],
    order: Sequence[str],
) -> ImportedMasks:
    """Return the masks to use: the file's own, those of ``mask_file``, or the zeros of the weights ``inferable``.

    ``called`` maps the names that a weight goes by in the file and in the network to its name in the network;
    ``order`` has the names of the maskable weights, for masks in a list.

    Raises:
        UsageError: more than one of the three.
        CheckpointError: masks that cannot be read or do not belong to these weights.
    """
    own = bool(file.masks) or file.beside is not None
    if own and mask_file is not None:
        raise UsageError("the file has masks of its own", where="--mask-file", got=mask_file, remedy="leave it out")
    if inferable is not None and (own or mask_file is not None):
        raise UsageError(
            "there are masks, so none are inferred",
            where="--infer-masks",
            got=f"masks in {file.where if own else mask_file}",
            remedy="leave it out",
        )
    if mask_file is not None:
        there, where = reading.read_masks(mask_file), os.fspath(mask_file)
        label = Path(where).name
        remarks = tuple(f"{label}: {remark}" for remark in there.remarks)
        return ImportedMasks(by_weight(there, called, order, where), where, "given", f"read from {label}", remarks)
    if inferable is not None:
        found = {name: weight != 0 for name, weight in inferable.items()}
        return ImportedMasks(found, file.where, "inferred", "inferred from zeros")
    if own:
        told = (f"took masks from {file.masks_key!r}",) if file.beside is not None else ()
        return ImportedMasks(in_file(file, called, order), file.where, "given", "in the file", told)
    return ImportedMasks({}, file.where, "none", "none, all weights are active")


def in_file(file: ForeignTensors, called: Mapping[str, str], order: Sequence[str]) -> dict[str, Tensor]:
    """Return the masks in a file of weights by the network's names of the weights; arguments as for :func:`choose`.

    Raises:
        CheckpointError: they lie in two places, or do not belong to these weights.
    """
    if file.masks and file.beside is not None:
        raise CheckpointError(
            "masks lie in two places of the file",
            where=file.where,
            got=f"{listing(file.masks, 2, width=60)}, and key {file.masks_key!r}",
            remedy=f"leave those of the key out with granet import --ignore {file.masks_key}",
        )
    if file.beside is not None:
        remedy = f"if these are no masks, leave them out with granet import --ignore {file.masks_key}"
        return by_weight(file.beside, called, order, f"{file.where}, {file.masks_key!r}", remedy=remedy)
    return by_weight(FoundTensors(tensors=file.masks), called, order, file.where) if file.masks else {}


def by_weight(
    found: FoundTensors, called: Mapping[str, str], order: Sequence[str], where: str, *, remedy: str | None = None
) -> dict[str, Tensor]:
    """Return masks by the network's names of the weights they belong to; arguments as for :func:`choose`.

    A mask may be called as its weight is, as its layer, or as ``MASK_LAYOUTS`` has it: ``conv1.weight``, ``conv1``,
    ``conv1.weight_mask``, ``conv1.mask``. Where any are called as masks, only these are masks. Those in a list are of
    the maskable weights in the order of the network.

    ``remedy`` is for masks of weights that the network does not have.

    Raises:
        CheckpointError: a mask of no weight, two of one, or a list of another length.
    """
    if found.listed is not None:
        if found.listed != len(order):
            raise CheckpointError(
                "a list of masks needs one for each weight that can be masked, in their order, or None",
                where=where,
                got=found.listed,
                expected=f"{len(order)}: {listing(order, 6, width=60)}",
                remedy="save them by the names of their weights",
            )
        return {order[int(position)]: mask for position, mask in found.tensors.items()}
    masks, _ = names.unwrapped(found.tensors, called, where)
    masks = prefixes.without(masks, prefixes.shared(list(masks), called), where)
    so_called = {name: base for name in masks if (base := _base(name)) is not None}
    result: dict[str, Tensor] = {}
    for name, base in (so_called or {name: name for name in masks}).items():
        target = called.get(base) or called.get(f"{base}.weight")
        if target is None:
            close = nearest(base[:200], called)
            raise CheckpointError(
                "a mask for a weight that the network does not have",
                where=f"{where}, tensor {short(name)}",
                remedy=f"is it meant for {close}?" if close else remedy,
            )
        if target in result:
            raise CheckpointError("two masks for one weight", where=f"{where}, tensor {short(name)}", got=target)
        result[target] = masks[name]
    return result


def _base(name: str) -> str | None:
    """Return the weight or layer that a name of a mask is of, or None if it is not the name of one."""
    for layout in MASK_LAYOUTS:
        if (plain := layout.plain_name(layout.mask, name)) is not None:
            return plain.removesuffix(".weight") if layout.layer else plain
    return None


def apply(
    chosen: ImportedMasks, weights: Mapping[str, Tensor], maskable: Mapping[str, object]
) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[str, ...]]:
    """Return the weights, zero outside their masks, a mask for each maskable one, full if none was given, and remarks.

    A mask of a parameter that granet does not mask, such as a bias, is applied but not kept.

    Raises:
        CheckpointError: a mask of another shape than its weight, or with other values than 0 and 1, or masks that
            leave nothing active.
    """
    result = dict(weights)
    masks = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in maskable}
    unkept, lost = [], 0
    for name, tensor in chosen.tensors.items():
        mask = boolean(tensor, weights[name], f"{chosen.where}, mask of {name}")
        _check_sense(mask, weights[name], f"{chosen.where}, mask of {name}")
        lost += int((weights[name].ne(0) & ~mask).sum())
        result[name] = torch.where(mask, weights[name], weights[name].new_zeros(()))
        if name in maskable:
            masks[name] = mask
        elif not mask.all():
            unkept.append(name)
    if masks and not any(mask.any() for mask in masks.values()):
        raise CheckpointError("the masks leave no weight active", where=chosen.where)
    return result, masks, (*chosen.remarks, *_remarks(chosen, result, masks, lost, unkept))


def boolean(tensor: Tensor, weight: Tensor, where: str) -> Tensor:
    """Return ``tensor``, of any dtype, as the bool mask of ``weight``.

    Raises:
        CheckpointError: it has another shape, or other values than 0 and 1.
    """
    if tensor.shape != weight.shape:
        raise CheckpointError(
            "the mask has another shape than its weight",
            where=where,
            got=tuple(tensor.shape),
            expected=tuple(weight.shape),
            remedy="are its bits packed? Unpack them, as with numpy.unpackbits"
            if tensor.dtype == torch.uint8 and 0 < tensor.numel() <= weight.numel() // 7 + 8
            else None,
        )
    mask = tensor.clone() if tensor.dtype == torch.bool else tensor == 1
    if tensor.dtype != torch.bool and (odd := int((~mask & (tensor != 0)).sum())):
        raise CheckpointError(
            "not a mask", where=where, got=f"{odd} of {mask.numel()} values that are neither 0 nor 1", expected="0 or 1"
        )
    return mask.contiguous()


def _check_sense(mask: Tensor, weight: Tensor, where: str) -> None:
    """Raise CheckpointError if the weights within a mask are all zero and others are not, as where 1 means pruned."""
    if mask.any() and not weight[mask].any() and weight[~mask].any():
        raise CheckpointError(
            "every weight within the mask is zero, and others are not",
            where=where,
            expected="1 for active and 0 for pruned",
            remedy="turn the masks over if 1 means pruned in them",
        )


def _remarks(
    chosen: ImportedMasks, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], lost: int, unkept: list[str]
) -> list[str]:
    remarks = []
    size = sum(mask.numel() for mask in masks.values())
    if chosen.origin == "none":
        zeros = sum(int((weights[name] == 0).sum()) for name in masks)
        if zeros > 0.01 * size:
            remarks.append(
                f"{zeros:,} of {size:,} maskable weights are zero and count as active: --mask-file reads masks, "
                "--infer-masks takes zeros for pruned"
            )
        return remarks
    if lost:
        remarks.append(f"set to zero, having values outside of their masks: {lost:,} weights")
    if unkept:
        remarks.append(
            "set to zero once and not masked in training, as granet masks convolutions and linear layers only: "
            + listing(unkept, 6, width=60)
        )
    full = [name for name in masks if name not in chosen.tensors]
    if full:
        remarks.append(f"all active, as there is no mask for them: {listing(full, 6, width=60)}")
    return remarks
