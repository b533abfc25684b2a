"""Read a file of another program as tensors by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from granet.checkpoint import container, header
from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, listing
from granet.files import mapped
from granet.importing import torch_file
from granet.masks.codec import Bytes

WEIGHTS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""The keys under which programs store the state dict next to other things, the commonest first."""

MASKS = ("masks", "mask", *WEIGHTS)
"""Likewise for masks."""

MAX_DEPTH = 4
"""The most levels of such keys that are searched."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """The tensors of a file.

    Attributes:
        where: the path, for messages.
        format: "safetensors" or "torch".
        tensors: by the names they have in the file, on the CPU. Read-only: they may lie in the file.
        ordered: whether they come in the order in which the saved network has them.
        remarks: which keys were followed and what was left out.
    """

    where: str
    format: str
    tensors: dict[str, Tensor]
    ordered: bool
    remarks: tuple[str, ...]


def read(path: str | os.PathLike[str], wrappers: Sequence[str] = WEIGHTS) -> Foreign:
    """Return the tensors of a safetensors file or one of ``torch.save``; its first bytes decide which it is.

    Args:
        path: a regular file.
        wrappers: the keys under which to look for them, in this order.

    Raises:
        CheckpointError: any other file, a damaged one, one that is a granet checkpoint already, or one without
            tensors. What is allocated is bounded by the length of the file.
    """
    where, data = os.fspath(path), mapped.read(path)
    beginning = data[:9].tobytes()
    if beginning[8:] == b"{":
        return _safetensors(data, where)
    if beginning.startswith((torch_file.ARCHIVE, torch_file.LEGACY)):
        value = torch_file.read(path, archive=beginning.startswith(torch_file.ARCHIVE))
        return _unwrapped(value, wrappers, where)
    raise CheckpointError(
        "the file is empty" if data.size == 0 else "neither a safetensors file nor one of torch.save",
        where=where,
        remedy="save a state dict there with safetensors.torch.save_file or torch.save",
    )


def _safetensors(data: Bytes, where: str) -> Foreign:
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
    tensors = {name: part.tensor(f"{where}, tensor {short(name)}") for name, part in stored.items()}
    _check_any(tensors, where)
    return Foreign(where=where, format="safetensors", tensors=tensors, ordered=False, remarks=())


def _unwrapped(value: Any, wrappers: Sequence[str], where: str) -> Foreign:
    """Return the state dict inside what was given to ``torch.save``."""
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
        key = next((key for key in wrappers if isinstance(value.get(key), dict) and value[key]), None)
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
    _check_any(tensors, where)
    return Foreign(where=where, format="torch", tensors=tensors, ordered=True, remarks=tuple(remarks))


def _check_any(tensors: dict[str, Tensor], where: str) -> None:
    if not tensors:
        raise CheckpointError("no tensors in the file", where=where, expected="a state dict: tensors by name")
