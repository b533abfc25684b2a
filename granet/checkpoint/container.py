"""The safetensors container: its layout for writing, and a reader that does not trust it.

A file is 8 bytes with the length of the header (unsigned, little-endian), the header (a JSON object, padded with
spaces) and the tensors, one after the other. The header maps the name of a tensor to its dtype, shape and offsets,
and ``__metadata__`` to strings.

The library that writes these files also reads them, but it opens a path by itself (and waits for ever at a pipe) and
lets a duplicate name win silently. Here every claim of the header is checked against the bytes before any tensor
exists, and tensors are views of the bytes given: nothing is copied, so a memory map stays one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from granet.checkpoint import canonical
from granet.checkpoint.canonical import short
from granet.checkpoint.fields import Field
from granet.errors import CheckpointError
from granet.masks.codec import Bytes

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes that can be stored, by their names in the header."""


MAX_HEADER = 8 * 2**20
"""The longest header, in bytes. Parsing one takes some twenty times its length, and no network needs as much."""


def check_storable(tensor: Tensor, where: str) -> None:
    """Raise CheckpointError if the tensor has a layout or dtype that the format does not have, or no data."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES.values():
        raise CheckpointError(
            "a tensor of this kind cannot be stored",
            where=where,
            got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
            expected=f"a strided tensor with data, of dtype {', '.join(DTYPES)}",
        )


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file: ``data`` is a read-only view of its bytes, uint8, exactly as many as it has."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Bytes

    def bits(self, where: str) -> NDArray[Any]:
        """Return the values as integers of their width, 1-D, a view; ``where`` is the tensor's name, for messages.

        Raises:
            CheckpointError: a bool that is neither 0 nor 1.
        """
        if self.dtype == torch.bool and self.data.max(initial=0) > 1:
            raise CheckpointError("a bool that is neither 0 nor 1", where=where)
        return self.data.view(f"i{self.dtype.itemsize}")

    def tensor(self, where: str) -> Tensor:
        """Return a copy of the tensor, on the CPU; see ``bits``."""
        return torch.from_numpy(self.bits(where).copy()).view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class FileLayout:
    """The layout of a file of ``size`` bytes: its header, with the length in front, and the place of each tensor."""

    header: bytes
    places: Mapping[str, slice]
    size: int


def lay_out(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> FileLayout:
    """Lay out a file with these tensors (dtype and shape) and metadata, all in the order given.

    Tensors lie at multiples of their element's size when larger elements come first.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    body = 8 + len(text)
    places = {name: slice(*(body + offset for offset in entries[name]["data_offsets"])) for name in tensors}
    return FileLayout(len(text).to_bytes(8, "little") + text, places, body + end)


def header_length(data: Bytes | bytes) -> int:
    """Return the length of the header, which the first 8 bytes of a file give."""
    return int.from_bytes(bytes(data[:8]), "little")


def read(data: Bytes, where: str) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return the tensors of the whole file ``data``, in the order in which they lie there, and the metadata.

    Raises:
        CheckpointError: anything but a valid safetensors file of dtypes in ``DTYPES``.
    """
    header, body = _split(data, where)
    metadata = Field(header.pop("__metadata__", {}), f"{where}['__metadata__']").object()
    for key, text in metadata.items():
        if not isinstance(text, str):
            raise CheckpointError("metadata must be text", where=f"{where}[{short(key)}]", got=type(text).__name__)
    entries = [(name, *_entry(field)) for name, field in Field(header, where).members()]
    tensors, end = {}, 0
    for name, dtype, shape, start, stop in sorted(entries, key=lambda entry: entry[3:]):
        if start != end or stop - start != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(
                "the file is damaged: a tensor is not where it must be, or of a length that does not fit its shape",
                where=f"{where}[{short(name)}]",
                got=f"bytes {start} to {stop}",
                expected=f"{short(shape)} of {dtype} from {end}",
            )
        tensors[name] = StoredTensor(dtype, shape, body[start:stop])
        end = stop
    if end != body.size:
        raise CheckpointError(
            "the file is damaged: cut off, or with something after its end",
            where=where,
            got=f"{body.size} bytes of tensors",
            expected=end,
            remedy="use an older copy of it",
        )
    return tensors, metadata


def _split(data: Bytes, where: str) -> tuple[dict[str, Any], Bytes]:
    """Return the header as an object, and the bytes after it."""
    if data.size == 0:
        raise CheckpointError("the file is empty", where=where, remedy="use an older copy of it")
    length = header_length(data)
    text = data[8 : 8 + length].tobytes() if length <= min(data.size - 8, MAX_HEADER) else b""
    if not text.startswith(b"{"):
        if where.lower().endswith(".onnx"):
            raise CheckpointError(
                "not a checkpoint",
                where=where,
                got="an ONNX file, by its name",
                remedy="name the checkpoint that it was exported from; granet inspect looks inside ONNX files",
            )
        raise CheckpointError(
            "not a safetensors file, or one with a damaged header",
            where=where,
            remedy="name a checkpoint that granet wrote, such as last.safetensors",
        )
    try:
        header = text.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError("the header is not sound JSON", where=where, got=error) from None
    return Field(canonical.loads(header, where=where), where).object(), data[8 + length :]


def _entry(field: Field) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    fields = field.record("dtype", "shape", "data_offsets")
    dtype = DTYPES[fields["dtype"].one_of(tuple(DTYPES))]
    start, stop = fields["data_offsets"].integers(2)
    return dtype, fields["shape"].shape(), start, stop
