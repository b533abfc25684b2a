"""Encodings of masks as bytes: bitmask, gaps8, gaps4.

A mask over ``size`` elements, True = active, is written as the flat indices of its active elements in one of these:

    bitmask  Bit ``i % 8`` of byte ``i // 8``, the least significant bit first, is 1 when index ``i`` is active. The
             bits behind the last index are 0. ``ceil(size / 8)`` bytes.
    gaps8    Codes of one byte, filler 255.
    gaps4    Codes of four bits, filler 15, two a byte, the low half first. A half byte that is left over is 15.

Gaps are read with a cursor that starts at index 0. A code below the filler skips that many indices, names the next
one and leaves the cursor behind it; the filler skips as many indices as its value and names none. Fillers go on behind
the last active index until fewer indices are left than a filler skips. That is why the half byte which pads gaps4 can
be distinguished from a code: no filler fits there.

All are one-to-one: a mask has exactly one spelling in each encoding, and every other string of bytes is refused. The
number of bytes bounds ``size`` (8 elements a byte for bitmask, 30 for gaps4, 255 for gaps8, and at most 254 more), so
that a reader allocates no more than the bytes in its hands justify. Of random masks bitmask is the smallest above a
density of about 0.24, gaps8 below 0.03, and gaps4 between.

Work goes in blocks, so that neither direction needs more memory than its result; indices are 64-bit throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_BLOCK = 2**16
"""Elements, or codes, processed at a time: they fit the second-level cache."""


def encode(mask: Mask) -> tuple[str, Bytes]:
    """Return name and bytes of the smallest encoding; of equally small ones, the first in ``ENCODINGS``.

    Args:
        mask: bool [size], contiguous.
    """
    # Gaps take at least half a byte for each active element.
    if 4 * np.count_nonzero(mask) >= mask.size:
        return "bitmask", np.packbits(mask, bitorder="little")
    found = list(_scan(mask))
    spelled = {name: encoding.encode(found, mask.size) for name, encoding in ENCODINGS.items()}
    name = min(spelled, key=lambda name: spelled[name].size)
    return name, spelled[name]


def decode(encoding: str, data: Bytes, size: int) -> Mask:
    """Return the mask, bool [size], that ``data`` encodes.

    Raises:
        ValueError: as :func:`count`.
    """
    count(encoding, data, size)
    return ENCODINGS[encoding].decode(data, size)


def positions(encoding: str, data: Bytes, size: int) -> Iterator[Positions]:
    """Yield the flat indices of the active elements, int64, increasing, in blocks of any length.

    Raises:
        ValueError: as :func:`count`, before the first block.
    """
    count(encoding, data, size)
    return ENCODINGS[encoding].positions(data, size)


def count(encoding: str, data: Bytes, size: int) -> int:
    """Return how many elements are active. Allocates at most a fixed multiple of ``data``, whatever ``size`` claims.

    Raises:
        ValueError: an encoding that is not in ``ENCODINGS``, or bytes that it would not have written for any mask
            over ``size`` elements.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"unknown encoding {encoding!r}; expected one of {', '.join(ENCODINGS)}")
    return ENCODINGS[encoding].count(data, size)


class Encoding(Protocol):
    """A pair of inverse functions between positions and bytes. Only ``count`` takes unchecked bytes."""

    def encode(self, positions: Iterable[Positions], size: int) -> Bytes:
        """Return the bytes for strictly increasing positions in [0, size), given in blocks that are not empty."""

    def count(self, data: Bytes, size: int) -> int:
        """Return the number of active elements; ValueError for bytes that encode no mask over ``size`` elements."""

    def positions(self, data: Bytes, size: int) -> Iterator[Positions]:
        """Yield the indices of active elements in blocks."""

    def decode(self, data: Bytes, size: int) -> Mask:
        """Return the mask, bool [size]."""


@dataclass(frozen=True)
class Bitmask:
    """One bit for each element."""

    def encode(self, positions: Iterable[Positions], size: int) -> Bytes:
        """Return the bytes for strictly increasing positions in [0, size), given in blocks that are not empty."""
        mask = np.zeros(size, np.bool_)
        for block in positions:
            mask[block] = True
        return np.packbits(mask, bitorder="little")

    def count(self, data: Bytes, size: int) -> int:
        """Return the number of active elements; ValueError for bytes that encode no mask over ``size`` elements."""
        if data.size != -(-size // 8):
            raise ValueError(f"a bitmask of {data.size} bytes; expected {-(-size // 8)} for {size} elements")
        if size % 8 and data[-1] >> (size % 8):
            raise ValueError(f"a bitmask with bits set behind its {size} elements")
        return int(np.bitwise_count(data).sum(dtype=np.int64))

    def positions(self, data: Bytes, size: int) -> Iterator[Positions]:
        """Yield the indices of active elements in blocks."""
        for start in range(0, size, _BLOCK):
            block = data[start // 8 : (start + _BLOCK) // 8]
            yield from _scan(np.unpackbits(block, bitorder="little").view(np.bool_), start)

    def decode(self, data: Bytes, size: int) -> Mask:
        """Return the mask, bool [size]."""
        return np.unpackbits(data, count=size, bitorder="little").view(np.bool_)


@dataclass(frozen=True)
class Gaps:
    """Codes of 8 or 4 ``bits``: the number of elements between two active ones."""

    bits: int

    @property
    def filler(self) -> int:
        """The largest code, which skips as many elements and names none."""
        return (1 << self.bits) - 1

    def encode(self, positions: Iterable[Positions], size: int) -> Bytes:
        """Return the bytes for strictly increasing positions in [0, size), given in blocks that are not empty."""
        codes, cursor = [], 0
        for block in positions:
            codes.append(self.codes(block, cursor))
            cursor = int(block[-1]) + 1
        codes.append(np.full((size - cursor) // self.filler, self.filler, np.uint8))
        return self.pack(np.concatenate(codes))

    def count(self, data: Bytes, size: int) -> int:
        """Return the number of active elements; ValueError for bytes that encode no mask over ``size`` elements."""
        cursor = active = 0
        for codes in self._unpacked(data):
            cursor += int(self.steps(codes).sum(dtype=np.int64))
            active += int(np.count_nonzero(codes != self.filler))
        left = size - cursor
        if self.bits == 4 and left < 0 and data[-1] >> 4 == self.filler:
            left += self.filler  # half a byte of padding, not a code
        if left < 0:
            raise ValueError(f"gaps that end {-left} past the end of {size} elements")
        if left >= self.filler:
            raise ValueError(
                f"gaps that end {left} before the end of {size} elements; expected fewer than {self.filler}"
            )
        return active

    def positions(self, data: Bytes, size: int) -> Iterator[Positions]:  # noqa: ARG002  the codes say it all
        """Yield the indices of active elements in blocks."""
        cursor = 0
        for codes in self._unpacked(data):
            block, cursor = self.named(codes, cursor)
            yield block

    def decode(self, data: Bytes, size: int) -> Mask:
        """Return the mask, bool [size]."""
        mask = np.zeros(size, np.bool_)
        for block in self.positions(data, size):
            mask[block] = True
        return mask

    def codes(self, positions: Positions, cursor: int) -> Bytes:
        """Return the codes, one a byte, that move the cursor from ``cursor`` past the last of ``positions``.

        Args:
            positions: int64 [n], n > 0, strictly increasing, none below ``cursor``.
            cursor: the first index that is not accounted for yet.
        """
        skips = np.diff(positions, prepend=np.int64(cursor - 1)) - 1
        if skips.max() < self.filler:
            return skips.astype(np.uint8)
        fillers = skips // self.filler
        naming = np.cumsum(fillers) + np.arange(positions.size)
        codes = np.full(int(naming[-1]) + 1, self.filler, np.uint8)
        codes[naming] = skips - self.filler * fillers
        return codes

    def named(self, codes: Bytes, cursor: int) -> tuple[Positions, int]:
        """Return the positions that ``codes``, one a byte, name from ``cursor`` on, and the cursor after them."""
        behind = np.cumsum(self.steps(codes), dtype=np.int64)
        behind += cursor
        # By index: choosing by a bool array takes several times as long.
        return behind[np.flatnonzero(codes != self.filler)] - 1, int(behind[-1]) if behind.size else cursor

    def steps(self, codes: Bytes) -> Bytes:
        """Return how far each code moves the cursor, uint8.

        Their running sum, less one, is an index for every code: a code that names an index lands on it, a filler
        lands on one that nothing names. So an operator that scatters values there, with zeros for the fillers,
        overwrites nothing, and a decoder made of standard tensor operators is Cast -> CumSum -> ScatterElements.
        """
        return np.minimum(codes, self.filler - 1) + np.uint8(1)

    def pack(self, codes: Bytes) -> Bytes:
        """Return codes, one a byte, as they are stored."""
        if self.bits == 8:
            return codes
        if codes.size % 2:
            codes = np.append(codes, np.uint8(self.filler))
        return codes[0::2] | (codes[1::2] << np.uint8(4))

    def unpack(self, data: Bytes) -> Bytes:
        """Return stored codes, one a byte; with four bits, including the one that pads."""
        if self.bits == 8:
            return data
        codes = np.empty(2 * data.size, np.uint8)
        codes[0::2] = data & 15
        codes[1::2] = data >> 4
        return codes

    def _unpacked(self, data: Bytes) -> Iterator[Bytes]:
        step = _BLOCK * self.bits // 8
        for start in range(0, data.size, step):
            yield self.unpack(data[start : start + step])


def _scan(mask: Mask, first: int = 0) -> Iterator[Positions]:
    """Yield the indices of active elements in blocks that are not empty; the first element has index ``first``."""
    for start in range(0, mask.size, _BLOCK):
        found = np.flatnonzero(mask[start : start + _BLOCK])
        if found.size:
            yield found.astype(np.int64, copy=False) + (first + start)


ENCODINGS: Mapping[str, Encoding] = {"bitmask": Bitmask(), "gaps8": Gaps(8), "gaps4": Gaps(4)}
"""Every encoding by its name in files, in order of preference."""
