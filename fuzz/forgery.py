"""Files taken apart, changed, and put together again with every hash right: what damage never makes, but a liar can.

Written from ``docs/format.md`` alone, without the code that it is turned against.
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
    """What a file is made of, all of it open to change: ``fields`` are those of the header of the format."""

    tensors: dict[str, Tensor]
    fields: dict[str, Any]


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The safetensors header of a sound file, as an object, and what lies behind it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: object, body: bytes = b"") -> bytes:
    """A file with this safetensors header, an object or its text, and this behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + body


def take_apart(data: bytes) -> Parts:
    """The parts of a sound file; the table of hashes is none of them."""
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
    """The file with these parts, in the order of ``tensors``, its hashes right."""
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
    """The file after ``change`` went over its parts."""
    parts = take_apart(data)
    change(parts)
    return put_together(parts)
