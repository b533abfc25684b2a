"""Decoder of changes in format 1, which is no longer written; the appendix of ``docs/history.md`` describes it.

In each layer the dropped weights, numbered among the active ones, and the grown, numbered among the others, are
subsets of known size. They are stored as gaps: low bits as they are, the rest coded by range asymmetric numeral systems
(Duda 2013, arXiv 1311.2540) in several interleaved coders.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from granet.history import varint
from granet.history.changes import CHECK_BYTES, FlatMasks, checksum
from granet.masks.codec import Mask, Positions

_SYMBOLS = 64
_LOWEST_STATE = 1 << 24
_STATE_BYTES = 5
_TOO_LARGE = 1 << 62

Subset = tuple[int, int]
"""k of n places."""


def decode(data: bytes, before: FlatMasks) -> dict[str, Mask]:
    """Return the masks after the change.

    Raises:
        ValueError: ``data`` is not a change of these masks.
    """
    sizes: list[Subset] = []
    cursor = 0
    for name, old in before.items():
        active = int(np.count_nonzero(old))
        dropped, cursor = varint.decode(data, cursor)
        folded, cursor = varint.decode(data, cursor)
        grown = dropped + (folded // 2 if folded % 2 == 0 else -(folded + 1) // 2)
        if not (0 <= dropped <= active and 0 <= grown <= old.size - active):
            raise ValueError(f"more changes than weights in {name}")
        sizes += [(dropped, active), (grown, old.size - active)]
    end = len(data) - CHECK_BYTES
    if end < cursor:
        raise ValueError("the change is cut off")
    subsets = iter(_subsets(data[cursor:end], sizes))
    after: dict[str, Mask] = {}
    for name, old in before.items():
        after[name] = old.copy()
        after[name][np.flatnonzero(old)[next(subsets)]] = False
        after[name][np.flatnonzero(~old)[next(subsets)]] = True
    if checksum(after) != int.from_bytes(data[end:], "little"):
        raise ValueError("the resulting masks do not match their checksum")
    return after


def _subsets(data: bytes, sizes: Sequence[Subset]) -> list[Positions]:
    """Return the places of each subset, of which the smaller of the subset and its complement is stored."""
    stored = [(min(k, n - k), n) for k, n in sizes]
    if sum(k for k, _ in stored) > 8 * len(data):  # each costs a bit at least: bounds the memory
        raise ValueError("the gaps are cut off")
    low_bits = [max((n // (4 * k)).bit_length() - 1, 0) if k else 0 for k, n in stored]
    ends = [0, *accumulate(k * low for (k, _), low in zip(stored, low_bits, strict=True))]
    cursor = -(-ends[-1] // 8)
    low = np.unpackbits(np.frombuffer(data[:cursor], np.uint8))
    if low.size < ends[-1] or low[ends[-1] :].any():
        raise ValueError("the low bits are cut off, or spare bits are set")
    tables = np.array([_table(k, n, bits) for (k, n), bits in zip(stored, low_bits, strict=True)], np.uint64)
    which = np.repeat(np.arange(len(stored)), [k for k, _ in stored])
    symbols, length = _symbols(data[cursor:], tables.reshape(-1, _SYMBOLS + 1), which)
    units, cursor = symbols.astype(np.int64), cursor + length
    for index in np.flatnonzero(symbols == _SYMBOLS - 1).tolist():
        more, cursor = varint.decode(data, cursor)
        units[index] = min(_SYMBOLS - 1 + more, _TOO_LARGE)
    if cursor != len(data):
        raise ValueError("bytes follow the last gap")
    found, begin = [], 0
    for (k, n), (count, _), bits, low_begin in zip(sizes, stored, low_bits, ends, strict=False):
        own = units[begin : begin + count]
        begin += count
        if int(own.max(initial=0)) > n >> bits:  # before it is shifted: keeps sums within 64 bits
            raise ValueError("a gap is larger than the number of places")
        rest = low[low_begin : low_begin + count * bits].reshape(count, bits).astype(np.int64)
        places = np.cumsum((own << bits) + rest @ (np.int64(1) << np.arange(bits)) + 1) - 1
        if count and int(places[-1]) >= n:
            raise ValueError("a place is past the end")
        found.append(np.delete(np.arange(n), places) if 2 * k > n else places)
    return found


def _table(count: int, among: int, low_bits: int) -> list[int]:
    """Return where each symbol begins: geometric distributions in whole numbers, 64 symbols in 2**16."""
    stay = min(((among - count) << 32) // max(among, 1), 2**32 - 1)
    for _ in range(low_bits):
        stay = stay * stay >> 32
    past, starts = 2**32, []
    for symbol in range(_SYMBOLS):
        starts.append(symbol + ((2**32 - past) * (2**16 - _SYMBOLS) >> 32))
        past = past * stay >> 32
    return [*starts, 2**16]


def _symbols(data: bytes, tables: NDArray[np.uint64], which: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Return the coded symbols, and the length of their code at the beginning of ``data``.

    Args:
        data: bytes.
        tables: where each symbol begins, uint64 [tables, 65].
        which: the table of each symbol, in order.
    """
    coders = min(max(which.size // 512, 1), 4096) if which.size else 0
    cursor = coders * _STATE_BYTES
    if len(data) < cursor:
        raise ValueError("the code is cut off")
    padded = np.zeros((coders, 8), np.uint8)
    padded[:, :_STATE_BYTES] = np.frombuffer(data, np.uint8, cursor).reshape(coders, _STATE_BYTES)
    states = padded.view("<u8").reshape(-1).astype(np.uint64)
    words = np.frombuffer(data, "<u2", (len(data) - cursor) // 2, cursor).astype(np.uint64)
    symbols = np.zeros(which.size, np.intp)
    taken = 0
    for begin in range(0, which.size, max(coders, 1)):  # a row: one symbol of each coder
        table = tables[which[begin : begin + coders]]
        row = states[: len(table)]
        slot = row & np.uint64(2**16 - 1)
        found = np.count_nonzero(table[:, 1:] <= slot[:, None], axis=1)
        numbers = np.arange(len(table))
        start = table[numbers, found]
        row[:] = (table[numbers, found + 1] - start) * (row >> np.uint64(16)) + slot - start
        hungry = np.flatnonzero(row < _LOWEST_STATE)
        if taken + hungry.size > words.size:
            raise ValueError("the code is cut off")
        row[hungry] = (row[hungry] << np.uint64(16)) | words[taken : taken + hungry.size]
        taken += hungry.size
        symbols[begin : begin + coders] = found
    if (states != _LOWEST_STATE).any():
        raise ValueError("not a code of these symbols")
    return symbols, cursor + 2 * taken
