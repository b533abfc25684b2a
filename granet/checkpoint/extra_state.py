"""State of a network that is neither weight nor persistent buffer, as JSON and tensors.

It is what ``get_extra_state`` of a module returns: None, bools, numbers, texts, bytes and tensors, in lists, tuples and
dicts. Nothing is pickled, and whatever else there is, is refused. Equal values have equal JSON and equal tensors.

JSON holds None, bools, integers, texts and finite floats as they are, and everything else as an object of one entry:
``{"list": [...]}``, ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"float": "nan"}`` (or ``"inf"``,
``"-inf"``), ``{"tensor": n}`` and ``{"bytes": n}``, where ``n`` counts the tensors of the value from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from granet.checkpoint import canonical
from granet.checkpoint.canonical import short
from granet.checkpoint.container import check_storable
from granet.checkpoint.fields import Field
from granet.errors import CheckpointError

SUFFIX = "_extra_state"
"""The end of the key that ``state_dict`` gives to the extra state of a module."""

_PLAIN = (type(None), bool, int, str)
_ODD_FLOATS = ("nan", "inf", "-inf")
_TENSORS = (Tensor, nn.Parameter, nn.Buffer)


def encode(value: object, where: str) -> tuple[Any, list[Tensor]]:
    """Return ``value`` as JSON and its tensors, not copied; ``where`` says for messages whose it is.

    Raises:
        CheckpointError: a part that cannot be stored.
    """
    tensors: list[Tensor] = []
    node = _node(value, where, tensors)
    canonical.dumps(node, where=where)
    return node, tensors


def _node(value: Any, where: str, tensors: list[Tensor]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind in (list, tuple):
        return {kind.__name__: [_node(item, f"{where}[{n}]", tensors) for n, item in enumerate(value)]}
    if kind is dict:
        parts = ((key, _node(item, f"{where}[{short(key)}]", tensors)) for key, item in value.items())
        return {"dict": [[_node(key, f"{where}, key {short(key)}", []), item] for key, item in parts]}
    if kind is bytes or kind in _TENSORS:
        tensor = torch.from_numpy(np.frombuffer(value, np.uint8).copy()) if kind is bytes else value.detach()
        check_storable(tensor, where)
        tensors.append(tensor)
        return {"bytes" if kind is bytes else "tensor": len(tensors) - 1}
    raise CheckpointError(
        "state of this type cannot be stored",
        where=where,
        got=kind.__name__,
        expected="None, bools, numbers, texts, bytes and tensors, in lists, tuples and dicts",
    )


def tensors_of(node: Field) -> Iterator[tuple[str, int]]:
    """Yield ``"tensor"`` or ``"bytes"`` and its number for each tensor of a value, of which all else is checked.

    Raises:
        CheckpointError: JSON that ``encode`` does not make.
    """
    if isinstance(node.value, (*_PLAIN, float)):
        return
    if len(node.object()) != 1:
        node.refuse("one entry, which says what it is")
    kind, inner = next(node.members())
    if kind in ("tensor", "bytes"):
        yield kind, inner.count()
    elif kind == "float":
        inner.one_of(_ODD_FLOATS)
    elif kind in ("list", "tuple"):
        for item in inner.items():
            yield from tensors_of(item)
    elif kind == "dict":
        for pair in inner.items():
            key, item = pair.items(2)
            if list(tensors_of(key)) or (isinstance(key.value, dict) and "float" not in key.value):
                key.refuse("a plain key")
            yield from tensors_of(item)
    else:
        node.refuse("a list, tuple, dict, float, tensor or bytes")


def decode(node: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the value of sound JSON and its tensors: the inverse of ``encode``."""
    if not isinstance(node, dict):
        return node
    ((kind, inner),) = node.items()
    if kind == "dict":
        return {decode(key, ()): decode(item, tensors) for key, item in inner}
    if kind in ("list", "tuple"):
        items = [decode(item, tensors) for item in inner]
        return items if kind == "list" else tuple(items)
    if kind == "float":
        return float(inner)
    return tensors[inner] if kind == "tensor" else tensors[inner].numpy().tobytes()


def copied(value: object, where: str) -> Any:
    """Return a copy of ``value``, tensors included; raise as ``encode``."""
    node, tensors = encode(value, where)
    return decode(node, [tensor.clone() for tensor in tensors])


def identical(one: object, other: object) -> bool:
    """Whether two values would be stored alike, tensors to the bit."""
    (node, tensors), (other_node, others) = encode(one, "one"), encode(other, "other")
    return node == other_node and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
        for a, b in zip(tensors, others, strict=True)
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
