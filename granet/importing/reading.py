"""Read a file of another program as tensors by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from granet.checkpoint import container, header
from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, listing
from granet.files import mapped
from granet.importing import names, torch_file
from granet.masks.codec import Bytes

WEIGHTS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""The keys under which programs store the state dict next to other things, the commonest first."""

MASKS = ("masks", "mask", *WEIGHTS)
"""Likewise for masks."""

MAX_DEPTH = 4
"""The most levels of such keys that are searched."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignTensors:
    """The tensors of a file."""

    where: str
    """The path, for messages."""
    format: Literal["safetensors", "torch"]
    tensors: dict[str, Tensor]
    """By name without wrappers, on the CPU. Read-only: they may lie in the file. Those of ``torch.save`` come in the
    order in which the saved network has them."""
    remarks: tuple[str, ...]
    """Which keys were followed, what was left out and what was removed from names."""


def read(path: str | os.PathLike[str], known: Iterable[str], keys: Sequence[str] = WEIGHTS) -> ForeignTensors:
    """Return the tensors of a safetensors file or one of ``torch.save``; its first bytes decide which it is.

    ``known`` are the names of the network, and ``keys`` those under which to look for a state dict, in this order.

    Raises:
        CheckpointError: any other file, a damaged one, one that is a granet checkpoint already, or one without
            tensors. What is allocated is bounded by the length of the file.
    """
    where, data = os.fspath(path), mapped.read(path)
    beginning = data[:9].tobytes()
    remarks: list[str] = []
    if is_safetensors := beginning[8:] == b"{":
        tensors = _safetensors(data, where)
    elif beginning.startswith((torch_file.ARCHIVE, torch_file.LEGACY)):
        value = torch_file.read(path, archive=beginning.startswith(torch_file.ARCHIVE))
        tensors, remarks = _state_dict(value, keys, where)
    else:
        raise CheckpointError(
            "the file is empty" if data.size == 0 else "neither a safetensors file nor one of torch.save",
            where=where,
            remedy="save a state dict there with safetensors.torch.save_file or torch.save",
        )
    if not tensors:
        raise CheckpointError("no tensors in the file", where=where, expected="a state dict: tensors by name")
    tensors, renamed = names.unwrapped(tensors, known, where)
    return ForeignTensors(
        where=where,
        format="safetensors" if is_safetensors else "torch",
        tensors=tensors,
        remarks=(*remarks, *renamed),
    )


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


def _state_dict(value: Any, keys: Sequence[str], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict inside what was given to ``torch.save``, and remarks."""
    remarks = []
    for depth in range(MAX_DEPTH + 1):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise CheckpointError(
                "not a state dict",
                where=where,
                got="a dict with other keys than texts" if isinstance(value, dict) else type(value).__name__,
                expected="tensors by name",
                remedy="save one there with torch.save(model.state_dict(), FILE)",
            )
        key = next((key for key in keys if isinstance(value.get(key), dict) and value[key]), None)
        if key is None or depth == MAX_DEPTH:
            break
        rest = [other for other in value if other != key]
        remarks.append(f"took {key!r}" + (f", left out {listing(rest, 6, width=60)}" if rest else ""))
        value = value[key]
    tensors = {name: tensor.detach() for name, tensor in value.items() if isinstance(tensor, Tensor)}
    for name, tensor in tensors.items():
        torch_file.check_tensor(tensor, f"{where}, tensor {short(name)}")
    others = [name for name in value if name not in tensors]
    if others and tensors:
        remarks.append(f"left out what is no tensor: {listing(others, 6, width=60)}")
    return tensors, remarks
