"""Positions of active weights <-> bytes.

A strictly increasing sequence of flat indices into a tensor of ``size`` elements is written in one of these:

    bitmask  Bit ``i % 8`` of byte ``i // 8``, the least significant bit first, is 1 when index ``i`` is in the
             sequence. The bits behind the last index are 0. ``ceil(size / 8)`` bytes.
    gaps8    A cursor starts at index 0. A byte below 255 skips that many indices, names the next one and leaves
             the cursor behind it; the byte 255 skips 255 indices and names none: it is a filler. Fillers go on
             behind the last named index until fewer than 255 indices are left. One byte per index and, at most,
             one per 255 elements: the smallest below a density of about 1/8.

Both directions are one-to-one: every sequence has exactly one spelling in each encoding and every other string of
bytes is refused. The length of the bytes bounds ``size`` (8 elements a byte for bitmask, 255 for gaps8 and 254
more), so that a reader allocates no more than the bytes in its hands justify; indices are 64-bit throughout.

A decoder made of standard tensor operators can read gaps8 as it is used in ONNX graphs, Cast -> CumSum ->
ScatterElements: see :func:`gaps8_steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
Bytes = NDArray[np.uint8]

FILLER = 255
"""The byte of gaps8 that skips 255 indices and names none."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A pair of inverse functions between (positions, size) and bytes.

    ``encode`` raises ValueError when this encoding cannot express the positions, ``decode`` when the bytes are not
    what ``encode`` would have written for any positions within ``size``.
    """

    encode: Callable[[Positions, int], Bytes]
    decode: Callable[[Bytes, int], Positions]


def encode(positions: Positions, size: int) -> tuple[str, Bytes]:
    """The name and the bytes of the smallest encoding; of equally small ones, the first in ``ENCODINGS``.

    Args:
        positions: flat indices, int64 [n], strictly increasing, each in [0, size).
        size: number of elements of the tensor.

    Raises:
        ValueError: positions that are not strictly increasing or lie outside the tensor.
    """
    mask_bytes = -(-size // 8)
    # gaps8 takes at least a byte per position, so most of the time the other one need not be tried.
    if positions.size < mask_bytes:
        gaps = _gaps8_encode(positions, size)
        if gaps.size < mask_bytes:
            return "gaps8", gaps
    return "bitmask", _bitmask_encode(positions, size)


def decode(encoding: str, data: Bytes, size: int) -> Positions:
    """The positions, int64 [n], that ``data`` spells in the named encoding.

    Allocates at most a fixed multiple of the length of ``data``, whatever ``size`` claims.

    Raises:
        ValueError: an encoding that is not in ``ENCODINGS``, or bytes that it could not have written.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"unknown encoding {encoding!r}; expected one of {', '.join(ENCODINGS)}")
    return ENCODINGS[encoding].decode(data, size)


def gaps8_steps(codes: Bytes) -> Bytes:
    """Increments whose running sum is the index that each byte of gaps8 lands on, uint8 [L].

    A byte that names an index lands on it. A filler lands on an index between two named ones or behind the last,
    never on one that is named: an operator that scatters ``values`` there, with zeros for the fillers
    (``codes == FILLER``), overwrites nothing. So an ONNX graph that stores these steps needs only
    Cast -> CumSum -> ScatterElements into zeros.
    """
    steps = np.minimum(codes, FILLER - 1) + np.uint8(1)
    steps[:1] -= np.uint8(1)  # the first index is counted from 0, every other one from its predecessor
    return steps


def _skips(positions: Positions, size: int) -> Positions:
    """How many indices lie unnamed before each position and, as the last entry, behind them all."""
    skips = np.diff(positions, prepend=np.int64(-1), append=np.int64(size)) - 1
    if skips.min() < 0:
        raise ValueError(f"positions must be strictly increasing and lie in [0, {size})")
    return skips


def _bitmask_encode(positions: Positions, size: int) -> Bytes:
    _skips(positions, size)
    mask = np.zeros(size, np.bool_)
    mask[positions] = True
    return np.packbits(mask, bitorder="little")


def _bitmask_decode(data: Bytes, size: int) -> Positions:
    if data.size != -(-size // 8):
        raise ValueError(f"a bitmask of {data.size} bytes; expected {-(-size // 8)} for {size} elements")
    if size % 8 and data[-1] >> (size % 8):
        raise ValueError(f"a bitmask with bits set behind its {size} elements")
    mask = np.unpackbits(data, count=size, bitorder="little").view(np.bool_)
    positions: Positions = np.flatnonzero(mask).astype(np.int64, copy=False)
    return positions


def _gaps8_encode(positions: Positions, size: int) -> Bytes:
    skips = _skips(positions, size)
    fillers = skips // FILLER
    codes = np.full(positions.size + int(fillers.sum()), FILLER, np.uint8)
    naming = np.cumsum(fillers[:-1] + 1) - 1
    codes[naming] = skips[:-1] - FILLER * fillers[:-1]
    return codes


def _gaps8_decode(data: Bytes, size: int) -> Positions:
    landings = np.cumsum(gaps8_steps(data), dtype=np.int64)
    left = size - (int(landings[-1]) + 1 if data.size else 0)
    if left < 0:
        raise ValueError(f"gaps that end {-left} past the end of {size} elements")
    if left >= FILLER:
        raise ValueError(f"gaps that end {left} before the end of {size} elements; expected fewer than {FILLER}")
    positions: Positions = landings[data != FILLER]
    return positions


ENCODINGS: Mapping[str, Encoding] = {
    "bitmask": Encoding(encode=_bitmask_encode, decode=_bitmask_decode),
    "gaps8": Encoding(encode=_gaps8_encode, decode=_gaps8_decode),
}
"""Every encoding by its name in files, in order of preference."""
