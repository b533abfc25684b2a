"""Unsigned LEB128: seven bits a byte, the lowest first; the eighth bit says that more bytes follow."""

from __future__ import annotations

_MAX_BYTES = 9
"""Numbers have at most 63 bits."""


def encode(number: int) -> bytes:
    """Return the bytes of a number from 0 to 2**63 - 1."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


def decode(data: bytes, start: int) -> tuple[int, int]:
    """Return the number that begins at ``start``, and where it ends.

    Raises:
        ValueError: there is no number, or one that ``encode`` writes differently.
    """
    number = 0
    for position, byte in enumerate(data[start : start + _MAX_BYTES]):
        number |= (byte & 127) << 7 * position
        if byte < 128:
            if byte == 0 and position:
                raise ValueError("a number is longer than necessary")
            return number, start + position + 1
    raise ValueError("a number is cut off or too large")
