"""Forge checkpoints: take a file apart, change it, and put it together again with valid hashes.

Written from ``docs/format.md`` alone, without the code under test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Tensor:
    """A stored tensor: the name of its dtype, its shape, its bytes."""

    dtype: str
    shape: list[int]
    data: bytes


@dataclass
class Parts:
    """The parts of a file, to be changed in place; ``fields`` are those of the header."""

    tensors: dict[str, Tensor]
    fields: dict[str, Any]


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the safetensors header of a sound file, as an object, and the bytes after it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: object, body: bytes = b"") -> bytes:
    """Return a file with this safetensors header, an object or its text, and ``body`` after it."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + body


def take_apart(data: bytes) -> Parts:
    """Return the parts of a sound file, without its table of hashes."""
    header, body = split(data)
    fields = json.loads(header.pop("__metadata__")["granet"])
    return Parts(
        tensors={
            name: Tensor(entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
            for name, entry in header.items()
            if name != "hashes"
        },
        fields=fields,
    )


def put_together(parts: Parts) -> bytes:
    """Return the file with these parts, in the order of ``tensors``, and valid hashes."""
    table = b"".join(hashlib.sha256(tensor.data).digest() for tensor in parts.tensors.values())
    fields = json.dumps(parts.fields, sort_keys=True, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {"content_hash": "0" * 64, "granet": fields}}
    end = 0
    for name, tensor in {"hashes": Tensor("U8", [len(parts.tensors), 32], table), **parts.tensors}.items():
        start, end = end, end + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    prefix = joined(text + b" " * (-len(text) % 8), table)
    content_hash = hashlib.sha256(prefix).hexdigest().encode()
    return prefix.replace(b"0" * 64, content_hash, 1) + b"".join(tensor.data for tensor in parts.tensors.values())


def edited(data: bytes, change: Callable[[Parts], object]) -> bytes:
    """Return the file with ``change`` applied to its parts, and valid hashes."""
    parts = take_apart(data)
    change(parts)
    return put_together(parts)
