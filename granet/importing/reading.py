"""Read a file of another program as the tensors of a network and their masks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from granet.checkpoint import container, header
from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, UsageError, counted, listing
from granet.files import mapped
from granet.importing import containers, leftovers, mask_layouts, names, prefixes, sharded, torch_file
from granet.importing.containers import FoundTensors
from granet.masks.codec import Bytes

Format = Literal["safetensors", "torch"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a file is meant, where the user says so."""

    key: str | None = None
    """The key under which the state dict lies, or several joined by dots."""
    prefixes: tuple[str, ...] = ()
    """What is in front of the network's names; everything else is left out."""
    ignore: tuple[str, ...] = ()
    """Tensors to leave out: patterns as for ``fnmatch``, names, or beginnings of names."""


EVERYTHING = Selection()


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignTensors:
    """The tensors of a file, as far as they are of a network."""

    where: str
    """The path, for messages."""
    format: Format
    tensors: dict[str, Tensor]
    """By names without wrappers and prefix, on the CPU. Read-only: they may lie in the file. Those of ``torch.save``
    come in the order in which the saved network has them."""
    masks: dict[str, Tensor]
    """Masks that lie among them, by the names of their weights."""
    prefix: str
    """What was taken off the names in front, with its last dot; empty if nothing was."""
    beside: FoundTensors | None
    """Masks that lie next to them under ``masks_key``."""
    masks_key: str
    remarks: tuple[str, ...]
    """Which keys were followed, what was left out and what was removed from names."""


def read(path: str | os.PathLike[str], network: nn.Module, selection: Selection = EVERYTHING) -> ForeignTensors:
    """Return the tensors of a safetensors file or one of ``torch.save``; its first bytes decide which it is.

    ``network`` may be without data. What it does not have is left out if it is a known by-product, or ignored by
    ``selection``; all other tensors are returned.

    Raises:
        CheckpointError: any other file, a damaged one, one that is a granet checkpoint already, or one without
            tensors. What is allocated is bounded by the length of the file.
        ModelError: the network is in the file several times.
        UsageError: something in ``selection`` is not in the file.
    """
    where = os.fspath(path)
    kind, found = _found(path, where, key=selection.key)
    known = names.canonical(network)
    tensors, ignored = leftovers.without_ignored(found.tensors, selection.ignore)
    tensors, renamed = _under_prefixes(tensors, known, selection.prefixes, where)
    tensors, masks = mask_layouts.split(tensors, known, where)
    prefix, placed = prefixes.find(tensors, known, where)
    tensors, masks = (prefixes.without(part, prefix, where) for part in (tensors, masks))
    tensors, more = leftovers.without_ignored(tensors, selection.ignore)
    ignored = {**more, **ignored}
    beside, masks_key = found.masks, found.masks_key
    if masks_key in selection.ignore:
        ignored, beside = {**ignored, masks_key: [masks_key]}, None
    if unused := [pattern for pattern in selection.ignore if pattern not in ignored]:
        raise UsageError(
            "nothing in the file has such a name",
            where=f"{where}, --ignore {unused[0]}",
            remedy=f"it has {leftovers.groups(found.tensors)}",
        )
    computed = {name for name, _ in network.named_buffers()} - known.keys()
    unneeded, left_out = leftovers.by_products(tensors, known, computed)
    told = [f"left out, as asked: {leftovers.groups(some)}" for some in ignored.values()]
    return ForeignTensors(
        where=where,
        format=kind,
        tensors={name: tensor for name, tensor in tensors.items() if name not in unneeded},
        masks={name: mask for name, mask in masks.items() if name not in unneeded},
        prefix=prefix,
        beside=beside,
        masks_key=masks_key,
        remarks=(*found.remarks, *renamed, *placed, *told, *left_out),
    )


def read_masks(path: str | os.PathLike[str]) -> FoundTensors:
    """Return the masks of a file, by the names that it has for them or in the order of its list.

    Raises:
        CheckpointError: as for :func:`read`.
    """
    return _found(path, os.fspath(path), for_masks=True)[1]


def _found(
    path: str | os.PathLike[str], where: str, *, key: str | None = None, for_masks: bool = False
) -> tuple[Format, FoundTensors]:
    """Return the format of a file, or those that an index names, and the tensors in it, by names as they are there."""
    if sharded.is_index(where):
        return _found_sharded(Path(where))
    data = mapped.read(path)
    beginning = data[:9].tobytes()
    if beginning[8:] == b"{":
        if key is not None:
            raise UsageError("a safetensors file has no keys", where=f"{where}, --key {key}", remedy="leave out --key")
        tensors = _safetensors(data, where)
        if not tensors:
            raise CheckpointError("no tensors in the file", where=where, expected="a state dict: tensors by name")
        return "safetensors", FoundTensors(tensors=tensors)
    if not beginning.startswith((torch_file.ARCHIVE, torch_file.LEGACY)):
        raise CheckpointError(
            "the file is empty" if data.size == 0 else "neither a safetensors file nor one of torch.save",
            where=where,
            remedy="save a state dict there with safetensors.torch.save_file or torch.save",
        )
    value = torch_file.read(path, archive=beginning.startswith(torch_file.ARCHIVE))
    return "torch", containers.find(value, where, key=key, for_masks=for_masks)


def _found_sharded(index: Path) -> tuple[Format, FoundTensors]:
    kind: Format = "safetensors"
    tensors: dict[str, Tensor] = {}
    for path, expected in sharded.files(index).items():
        kind, found = _found(path, os.fspath(path))
        if found.tensors.keys() != set(expected):
            different = sorted(found.tensors.keys() ^ set(expected))
            raise CheckpointError(
                "the file does not have the tensors that its index says",
                where=path,
                got=f"differences: {listing(different, 3, width=60)}",
                remedy="bring all files of one download or save together",
            )
        tensors |= found.tensors
    return kind, FoundTensors(tensors=tensors)


def _under_prefixes(
    tensors: Mapping[str, Tensor], known: Iterable[str], asked: Sequence[str], where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the prefixes asked for, by names without wrappers, and remarks.

    Raises:
        UsageError: there are none.
    """
    chosen = leftovers.under(tensors, asked) if asked else dict(tensors)
    plain, remarks = names.unwrapped(chosen or tensors, known, where)
    if not chosen:
        plain = leftovers.under(plain, asked)
    if not plain:
        raise UsageError(
            "no tensor of the file is under this prefix",
            where=f"{where}, --prefix {' --prefix '.join(asked)}",
            remedy=f"it has {leftovers.groups(tensors)}",
        )
    rest = len(tensors) - len(plain)
    others = f" and left out {counted(rest, 'other tensor')}" if rest else ""
    told = [f"took what is under {', '.join(asked)}{others}, as asked"] if asked else []
    return plain, [*told, *remarks]


def _safetensors(data: Bytes, where: str) -> dict[str, Tensor]:
    try:
        stored, metadata = container.read(data, where)
    except CheckpointError as error:  # whose advice is about checkpoints
        raise CheckpointError(
            error.what, where=error.where, got=error.got, expected=error.expected, remedy="use another copy"
        ) from None
    if header.KEY in metadata:
        raise CheckpointError(
            "a granet checkpoint already", where=where, remedy="use it as it is: there is nothing to import"
        )
    return {name: part.tensor(f"{where}, tensor {short(name)}") for name, part in stored.items()}
