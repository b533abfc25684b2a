"""Whole numbers of any size <-> bytes: seven bits a byte, the lowest first, the eighth says that more follow."""

from __future__ import annotations

_MOST_BYTES = 9
"""Numbers have at most 63 bits."""


def written(number: int) -> bytes:
    """The bytes of a number from 0 to 2**63 - 1."""
    text = bytearray()
    while number > 127:
        text.append(number & 127 | 128)
        number >>= 7
    text.append(number)
    return bytes(text)


def read_number(data: bytes, cursor: int) -> tuple[int, int]:
    """The number at ``cursor``, and where it ends.

    Raises:
        ValueError: there is no number, or one that ``written`` would have written otherwise.
    """
    number = 0
    for position, byte in enumerate(data[cursor : cursor + _MOST_BYTES]):
        number |= (byte & 127) << 7 * position
        if byte < 128:
            if byte == 0 and position:
                raise ValueError("a number is longer than it need be")
            return number, cursor + position + 1
    raise ValueError("a number is cut off or too large")


def folded(number: int) -> int:
    """A number from below and above 0 as one from 0 on, small ones small: 0, -1, 1, -2 ... are 0, 1, 2, 3."""
    return 2 * number if number >= 0 else -2 * number - 1


def unfolded(number: int) -> int:
    """The inverse of ``folded``."""
    return number // 2 if number % 2 == 0 else -(number + 1) // 2
