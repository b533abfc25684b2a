"""Pack positions and values into the tensors that a decoder reads, and unpack them without trusting them.

The codes are those of :mod:`granet.masks.codec`, byte for byte, but for Gaps8Steps, whose entries are the distances
from one position to the next. Reading allocates nothing that the bytes in the file do not justify.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporters.encoding.decoder_functions import LAYOUTS
from granet.masks import codec
from granet.masks.codec import ENCODINGS, Bytes, Gaps

Array = NDArray[Any]

_GAPS8, _GAPS4 = Gaps(8), Gaps(4)
_UINT4 = helper.tensor_dtype_to_np_dtype(TensorProto.UINT4)


@dataclass(frozen=True, eq=False)
class Packed:
    """The positions and values that are stored of a tensor.

    Attributes:
        positions: as in the file: bytes, codes or steps as uint8, codes of four bits as uint4.
        entries: how many codes, steps or, in a bitmask, bytes these are.
        values: one-dimensional, with the zeros that the layout adds.
    """

    positions: Array
    entries: int
    values: Array


def pack(layout: str, values: Array) -> Packed:
    """Return ``values``, of one dimension, in a layout that has positions."""
    found = np.flatnonzero(values)
    chosen = values[found]
    encoding = LAYOUTS[layout].encoding
    positions = ENCODINGS[encoding].encode([found] if found.size else [], values.size)
    if layout == "Gaps8Steps":
        spread = np.zeros(positions.size, values.dtype)
        spread[positions != _GAPS8.filler] = chosen
        steps = _GAPS8.steps(positions)
        steps[:1] -= 1  # the running sum is then the position itself
        return Packed(steps, steps.size, spread)
    entries = positions.size
    if encoding == "gaps4":
        entries = _count_codes(positions, values.size)
    if layout == "Gaps4":
        positions = _GAPS4.unpack(positions)[:entries].astype(_UINT4)
    return Packed(positions, entries, np.concatenate([np.zeros(1, values.dtype), chosen]))


def unpack(layout: str, packed: Packed, size: int) -> Array:
    """Return all ``size`` values of what :func:`check` accepts, with zeros where none was stored."""
    flat = np.zeros(size, packed.values.dtype)
    if layout == "Gaps8Steps":
        flat[np.cumsum(packed.positions, dtype=np.int64)] = packed.values
        return flat
    start = 1
    for block in ENCODINGS[LAYOUTS[layout].encoding].positions(_bytes(packed.positions), size):
        flat[block] = packed.values[start : start + block.size]
        start += block.size
    return flat


def check(layout: str, packed: Packed, size: int) -> None:
    """Check that :func:`pack` writes such positions for a tensor of ``size`` values.

    A stored value may be zero, which only makes it less than sparse. Allocates nothing of ``size``.

    Raises:
        ValueError: it does not.
    """
    positions, values = _bytes(packed.positions), packed.values
    if layout == "Gaps8Steps":
        _check_steps(positions, values, size)
        return
    encoding = LAYOUTS[layout].encoding
    active = codec.count(encoding, positions, size)
    if encoding == "gaps4" and packed.entries != (expected := _count_codes(positions, size)):
        raise ValueError(f"{packed.entries} codes; expected {expected}")
    if values.size != active + 1:
        raise ValueError(f"{values.size} values for {active} positions; expected one more")
    if values[:1].tobytes().strip(b"\0"):
        raise ValueError(f"values that begin with {values[0]}; expected 0")


def _bytes(positions: Array) -> Bytes:
    """Positions as the codec has them: codes of four bits two in a byte."""
    return _GAPS4.pack(positions.astype(np.uint8)) if positions.dtype == _UINT4 else positions


def _count_codes(positions: Bytes, size: int) -> int:
    """The number of codes of four bits without padding, which is recognised by skipping past the end."""
    codes = _GAPS4.unpack(positions)
    return codes.size - int(_GAPS4.steps(codes).sum(dtype=np.int64) > size)


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
