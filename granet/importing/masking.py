"""Find the masks of imported weights: in their file, in another file or, only when asked, from their zeros."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from granet.errors import CheckpointError, UsageError, listing
from granet.importing import names, reading

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
    own: Mapping[str, Tensor],
    mask_file: str | os.PathLike[str] | None,
    inferable: Mapping[str, Tensor] | None,
    *,
    called: Mapping[str, str],
    where: str,
) -> ImportedMasks:
    """Return the masks to use: the file's ``own``, those of ``mask_file``, or the zeros of the weights ``inferable``.

    ``called`` maps the names that a weight goes by in the file and in the network to its name in the network.

    Raises:
        UsageError: more than one of the three.
        CheckpointError: a mask file that cannot be read or does not belong to these weights.
    """
    if own and mask_file is not None:
        raise UsageError("the file has masks of its own", where="--mask-file", got=mask_file, remedy="leave it out")
    if inferable is not None and (own or mask_file is not None):
        raise UsageError(
            "there are masks, so none are inferred",
            where="--infer-masks",
            got=f"masks in {where if own else mask_file}",
            remedy="leave it out",
        )
    if mask_file is not None:
        file = reading.read(mask_file, called, reading.MASKS)
        label = Path(file.where).name
        remarks = tuple(f"{label}: {remark}" for remark in file.remarks)
        found = names.of_masks(file.tensors, called, file.where)
        return ImportedMasks(found, file.where, "given", f"read from {label}", remarks)
    if inferable is not None:
        found = {name: weight != 0 for name, weight in inferable.items()}
        return ImportedMasks(found, where, "inferred", "inferred from zeros")
    if own:
        return ImportedMasks(names.of_masks(own, called, where), where, "given", "in the file")
    return ImportedMasks({}, where, "none", "none, all weights are active")


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
        )
    mask = tensor.clone() if tensor.dtype == torch.bool else tensor == 1
    if tensor.dtype != torch.bool and (odd := int((~mask & (tensor != 0)).sum())):
        raise CheckpointError(
            "not a mask", where=where, got=f"{odd} of {mask.numel()} values that are neither 0 nor 1", expected="0 or 1"
        )
    return mask.contiguous()


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
