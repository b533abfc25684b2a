"""Range asymmetric numeral systems (Duda 2013, arXiv 1311.2540), many coders abreast.

A symbol that has the share ``size / 2**16`` of a table, which begins at ``start``, costs ``16 - log2(size)`` bits. A
coder is a number: coding a symbol multiplies it by about ``2**16 / size``, and what grows past 40 bits leaves as 16-bit
words. Symbols are dealt to the coders like cards, so that NumPy works on a row of them at a time; a coder costs three
bytes more than its symbols. All arithmetic is on whole numbers, the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]

PROBABILITY_BITS = 16
WHOLE = 1 << PROBABILITY_BITS
"""What the sizes of a table add up to."""

_WORD_BITS = 16
_LOWEST_BITS = 24
_STATE_BYTES = (_LOWEST_BITS + _WORD_BITS) // 8
_ROWS, _MOST_LANES = 512, 4096

_SHIFT, _LOWEST = np.uint64(PROBABILITY_BITS), np.uint64(1 << _LOWEST_BITS)
_WORD = np.uint64(_WORD_BITS)


def lanes(count: int) -> int:
    """How many coders share ``count`` symbols: none for none, and few enough that their own cost does not show."""
    return 0 if count == 0 else min(max(count // _ROWS, 1), _MOST_LANES)


def encode(starts: Numbers, sizes: Numbers) -> bytes:
    """The code of symbols, given by where each begins in its table and how much of it it has.

    Args:
        starts: uint64 [n], below 2**16.
        sizes: uint64 [n], from 1 to 2**16.

    Returns:
        The last state of every coder, 5 bytes each, then the words in the order in which they are read.
    """
    width = lanes(starts.size)
    states = np.full(width, _LOWEST, np.uint64)
    limits = sizes << np.uint64(_LOWEST_BITS + _WORD_BITS - PROBABILITY_BITS)
    words: list[NDArray[np.uint16]] = []
    # Some hundred rows of a few coders: what takes the time is how many calls there are.
    for begin in reversed(range(0, starts.size, max(width, 1))):
        row, place = states, slice(begin, begin + width)
        if begin + width > starts.size:
            row = states[: starts.size - begin]
        (full,) = (row >= limits[place]).nonzero()
        if full.size:
            words.append(row[full].astype(np.uint16))  # the lowest bits
            row[full] >>= _WORD
        quotient, rest = np.divmod(row, sizes[place])
        quotient <<= _SHIFT
        quotient += rest
        np.add(quotient, starts[place], out=row)
    stored = states.astype("<u8").view(np.uint8).reshape(width, 8)[:, :_STATE_BYTES]
    return stored.tobytes() + np.concatenate([np.zeros(0, np.uint16), *reversed(words)]).astype("<u2").tobytes()


def decode(data: bytes, tables: NDArray[np.uint64], which: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """The symbols of a code, and how many bytes of ``data`` it has.

    Args:
        data: begins with the code.
        tables: uint64 [tables, symbols + 1]; where each symbol begins, strictly increasing from 0 to 2**16. The
            number of symbols is a power of two.
        which: the table of each symbol of the code.

    Raises:
        ValueError: ``data`` is too short, or no such code.
    """
    width, half = lanes(which.size), (tables.shape[1] - 1) // 2
    cursor = width * _STATE_BYTES
    if len(data) < cursor:
        raise ValueError("the code is cut off")
    padded = np.zeros((width, 8), np.uint8)
    padded[:, :_STATE_BYTES] = np.frombuffer(data, np.uint8, cursor).reshape(width, _STATE_BYTES)
    states = padded.view("<u8").reshape(-1).astype(np.uint64)
    words = np.frombuffer(data, "<u2", (len(data) - cursor) // 2, cursor).astype(np.uint64)
    symbols = np.zeros(which.size, np.intp)
    taken = 0
    for begin in range(0, which.size, max(width, 1)):
        table = which[begin : begin + width]
        row = states[: table.size]
        slot = row & np.uint64(WHOLE - 1)
        found = np.zeros(table.size, np.intp)
        step = half
        while step:  # bisection: the last symbol that begins at or before the slot
            found += np.where(tables[table, found + step] <= slot, step, 0)
            step //= 2
        start = tables[table, found]
        row[:] = (tables[table, found + 1] - start) * (row >> _SHIFT) + slot - start
        hungry = np.flatnonzero(row < _LOWEST)
        if taken + hungry.size > words.size:
            raise ValueError("the code is cut off")
        row[hungry] = (row[hungry] << _WORD) | words[taken : taken + hungry.size]
        taken += hungry.size
        symbols[begin : begin + width] = found
    if (states != _LOWEST).any():
        raise ValueError("not a code of these symbols")
    return symbols, cursor + 2 * taken
