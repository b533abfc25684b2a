"""Subsets of known size <-> bytes, at about ``log2 C(n, k)`` bits each.

A subset of ``k`` out of ``n`` places that has no structure is written as the gaps between its places, which follow the
geometric distribution of ``k / n``. Of a gap the low bits, which are as good as evenly distributed, are stored as they
are. The rest, a few units on the mean, is entropy-coded by that distribution, all subsets together. Of more than half
of the places the others are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import lgamma, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from granet.history import entropy
from granet.history.numbers import read_number, written

Places = NDArray[np.int64]

_SYMBOLS = 64
_LARGEST = _SYMBOLS - 1
"""The symbol of all gaps of so many units and more; what they have more is written behind the code."""
_ONE_BITS = 32
_TOO_LARGE = 1 << 62


@dataclass(frozen=True)
class Size:
    """How many of how many: ``count`` of ``among`` places, 0 <= count <= among."""

    count: int
    among: int

    @property
    def inverted(self) -> bool:
        """Whether the places that are not in the subset are written, since there are fewer of them."""
        return 2 * self.count > self.among

    @property
    def written(self) -> int:
        """How many places are written."""
        return self.among - self.count if self.inverted else self.count

    @property
    def low_bits(self) -> int:
        """The bits of a gap that are stored as they are: so many that a gap has 4 to 8 units on the mean."""
        return max((self.among // (4 * self.written)).bit_length() - 1, 0) if self.written else 0


def encode(subsets: Sequence[Places], sizes: Sequence[Size]) -> bytes:
    """The bytes of some subsets, each of strictly increasing places in [0, among)."""
    starts, widths, rest, longer = [], [], [], bytearray()
    for places, size, table in zip(subsets, sizes, _tables(sizes), strict=True):
        gaps = _gaps(_inverse(places, size.among) if size.inverted else places)
        units = gaps >> size.low_bits
        symbols = np.minimum(units, _LARGEST)
        starts.append(table.take(symbols))
        widths.append(np.diff(table).take(symbols))
        rest.append(_as_bits(gaps, size.low_bits))
        for unit in units[units >= _LARGEST].tolist():
            longer += written(unit - _LARGEST)
    code = entropy.encode(_joined(starts, np.uint64), _joined(widths, np.uint64))
    return np.packbits(_joined(rest, np.uint8)).tobytes() + code + bytes(longer)


def decode(data: bytes, sizes: Sequence[Size]) -> list[Places]:
    """The subsets that ``data`` spells, all of it.

    Raises:
        ValueError: bytes that ``encode`` would not have written.
    """
    if sum(size.written for size in sizes) > 8 * len(data):  # a gap costs a bit or more
        raise ValueError("the code is cut off")
    ends = [0, *accumulate(size.written * size.low_bits for size in sizes)]
    stored = -(-ends[-1] // 8)
    rest = np.unpackbits(np.frombuffer(data[:stored], np.uint8))
    if rest.size < ends[-1] or rest[ends[-1] :].any():
        raise ValueError("the low bits are cut off, or others are set behind them")
    symbols, length = entropy.decode(data[stored:], _tables(sizes), _which(sizes))
    units, cursor = symbols.astype(np.int64), stored + length
    for index in np.flatnonzero(symbols == _LARGEST).tolist():
        more, cursor = read_number(data, cursor)
        units[index] = min(_LARGEST + more, _TOO_LARGE)
    if cursor != len(data):
        raise ValueError("something follows the last gap")
    subsets, begin = [], 0
    for size, low_begin, low_end in zip(sizes, ends, ends[1:], strict=False):
        own = units[begin : begin + size.written]
        begin += size.written
        # Before anything is shifted and added up, so that nothing is too large for 64 bits.
        if int(own.max(initial=0)) > size.among >> size.low_bits:
            raise ValueError("a gap is larger than there are places")
        places = np.cumsum((own << size.low_bits) + _from_bits(rest[low_begin:low_end], size) + 1) - 1
        if places.size and int(places[-1]) >= size.among:
            raise ValueError("a place is past the end")
        subsets.append(_inverse(places, size.among) if size.inverted else places)
    return subsets


def entropy_bits(sizes: Sequence[Size]) -> float:
    """What such subsets cost at the least when nothing is known but their sizes: the sum of log2 C(among, count)."""
    return sum(
        (lgamma(size.among + 1) - lgamma(size.count + 1) - lgamma(size.among - size.count + 1)) / log(2)
        for size in sizes
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _gaps(places: Places) -> Places:
    return np.diff(places, prepend=np.int64(-1)) - 1


def _inverse(places: Places, among: int) -> Places:
    others = np.ones(among, np.bool_)
    others[places] = False
    return np.flatnonzero(others)


def _as_bits(gaps: Places, low_bits: int) -> NDArray[np.uint8]:
    """The low bits of each, the lowest first, one a byte."""
    return ((gaps[:, None] >> np.arange(low_bits)) & 1).astype(np.uint8).reshape(-1)


def _from_bits(bits: NDArray[np.uint8], size: Size) -> Places:
    return bits.reshape(size.written, size.low_bits).astype(np.int64) @ (np.int64(1) << np.arange(size.low_bits))


def _which(sizes: Sequence[Size]) -> NDArray[np.intp]:
    """The table of each gap."""
    return np.repeat(np.arange(len(sizes)), [size.written for size in sizes])


def _tables(sizes: Sequence[Size]) -> NDArray[np.uint64]:
    """Where each symbol begins, uint64 [sizes, 65]: geometric distributions in whole numbers, and no symbol of size 0.

    ``stay`` is the probability that a gap goes on for one unit more, and ``past`` that it has reached a symbol, both as
    fractions of 2**32.
    """
    one = np.uint64(1 << _ONE_BITS)
    stay = np.array([((s.among - s.written) << _ONE_BITS) // max(s.among, 1) for s in sizes], np.uint64)
    stay = np.minimum(stay, one - np.uint64(1))
    low = np.array([size.low_bits for size in sizes])
    for bit in range(int(low.max(initial=0))):
        stay = np.where(bit < low, (stay * stay) >> np.uint64(_ONE_BITS), stay)
    past = np.full(len(sizes), one, np.uint64)
    tables = np.empty((len(sizes), _SYMBOLS + 1), np.uint64)
    for symbol in range(_SYMBOLS):
        share = ((one - past) * np.uint64(entropy.WHOLE - _SYMBOLS)) >> np.uint64(_ONE_BITS)
        tables[:, symbol] = share + np.uint64(symbol)
        past = (past * stay) >> np.uint64(_ONE_BITS)
    tables[:, _SYMBOLS] = entropy.WHOLE
    return tables
