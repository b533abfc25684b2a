"""Where values belong: positions <-> the tensors that a decoder reads, in each layout of ``functions.LAYOUTS``.

The codes are those of :mod:`granet.masks.codec`, byte for byte, but for Gaps8Steps, whose entries are what the codes
move by. Reading trusts nothing: sizes have to be justified by the bytes that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from granet.masks import codec
from granet.masks.codec import ENCODINGS, Bytes, Gaps

Array = NDArray[Any]

_GAPS8, _GAPS4 = Gaps(8), Gaps(4)


@dataclass(frozen=True, eq=False)
class Packed:
    """What is stored of a tensor.

    Attributes:
        positions: where values belong, as stored, uint8.
        entries: how many entries those are: codes, steps or, where no entry is smaller, bytes.
        values: those that are stored, zeros that the layout wants included, one-dimensional.
    """

    positions: Bytes
    entries: int
    values: Array


def pack(layout: str, values: Array) -> Packed:
    """``values``, of one dimension, in a layout that has positions."""
    found = np.flatnonzero(values)
    blocks = [found] if found.size else []
    chosen = values[found]
    if layout == "Gaps8Steps":
        codes = ENCODINGS["gaps8"].encode(blocks, values.size)
        spread = np.zeros(codes.size, values.dtype)
        spread[codes != _GAPS8.filler] = chosen
        steps = _GAPS8.steps(codes)
        steps[:1] -= 1  # the running sum is then where a value belongs, and not behind it
        return Packed(steps, steps.size, spread)
    encoding = _encoding(layout)
    positions = ENCODINGS[encoding].encode(blocks, values.size)
    entries = positions.size
    if encoding == "gaps4":
        codes = _GAPS4.unpack(positions)
        # The half byte that pads skips past the end: it stands where there is no room for a filler.
        entries = codes.size - int(_GAPS4.steps(codes).sum(dtype=np.int64) > values.size)
    return Packed(positions, entries, np.concatenate([np.zeros(1, values.dtype), chosen]))


def unpack(layout: str, packed: Packed, size: int) -> Array:
    """The inverse of :func:`pack`: all ``size`` values, with zeros where none was stored.

    Allocates nothing of ``size`` before the bytes have justified it.

    Raises:
        ValueError: anything that :func:`pack` would not have written for any values; a stored value may be zero,
            which only makes it less than sparse.
    """
    check(layout, packed, size)
    flat = np.zeros(size, packed.values.dtype)
    if layout == "Gaps8Steps":
        flat[np.cumsum(packed.positions, dtype=np.int64)] = packed.values
        return flat
    start = 1
    for block in ENCODINGS[_encoding(layout)].positions(packed.positions, size):
        flat[block] = packed.values[start : start + block.size]
        start += block.size
    return flat


def raw(kind: int, packed: Packed) -> bytes:
    """The positions as the data of a tensor of element type ``kind``."""
    data = packed.positions
    if kind == TensorProto.UINT4 and packed.entries % 2:  # here the standard pads, with zeros
        data = data.copy()
        data[-1] &= 15
    return data.tobytes()


def nibbles(codes: Bytes) -> Bytes:
    """Codes of four bits, one a byte, as :func:`pack` has them."""
    return _GAPS4.pack(codes)


def check(layout: str, packed: Packed, size: int) -> None:
    """Whether :func:`unpack` can do it.

    Raises:
        ValueError: it cannot.
    """
    positions, values = packed.positions, packed.values
    if layout == "Gaps8Steps":
        _check_steps(positions, values, size)
        return
    encoding = _encoding(layout)
    active = codec.count(encoding, positions, size)
    if encoding == "gaps4":
        codes = _GAPS4.unpack(positions)
        expected = codes.size - int(_GAPS4.steps(codes).sum(dtype=np.int64) > size)
        if packed.entries != expected:
            raise ValueError(f"{packed.entries} codes; expected {expected}")
    if values.size != active + 1:
        raise ValueError(f"{values.size} values for {active} positions; expected one more")
    if values[:1].tobytes().strip(b"\0"):
        raise ValueError(f"values that begin with {values[0]}; expected 0")


def _check_steps(steps: Bytes, values: Array, size: int) -> None:
    if values.size != steps.size:
        raise ValueError(f"{values.size} values for {steps.size} steps; expected as many")
    last = int(steps.sum(dtype=np.int64)) if steps.size else -1
    if np.count_nonzero(steps[1:]) < steps.size - 1:
        raise ValueError("two values for one position")
    if last >= size:
        raise ValueError(f"a position {last} of {size}")
    if size - 1 - last >= _GAPS8.filler:
        raise ValueError(f"steps that end {size - 1 - last} before the end; expected fewer than {_GAPS8.filler}")


def _encoding(layout: str) -> str:
    return {"Gaps8": "gaps8", "Gaps4": "gaps4", "Gaps4Packed": "gaps4", "Bitmask": "bitmask"}[layout]
