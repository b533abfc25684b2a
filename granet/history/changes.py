"""What an update did to the masks <-> bytes.

For each layer two subsets are written: of the weights that were active those that are not any more, and of all others
those that are now. Both are as long as their entropy, whatever the network's size. A checksum of the masks that result
stands behind them, so that a replay is known to be right.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch

from granet.history import subsets
from granet.history.numbers import folded, read_number, unfolded, written
from granet.history.subsets import Places, Size
from granet.masks.codec import Bytes, Mask

FlatMasks = Mapping[str, Mask]
"""Masks by the name of the weight, bool [its size], on the CPU, in the order of the network."""

CHECK_BYTES = 4


def flat(masks: Mapping[str, torch.Tensor]) -> dict[str, Mask]:
    """Masks of any shape and device as they are written. Those of the CPU are not copied."""
    return {name: mask.detach().cpu().reshape(-1).numpy() for name, mask in masks.items()}


def encode(before: FlatMasks, after: FlatMasks) -> bytes:
    """The bytes that say how ``after`` came out of ``before``; both have the same layers."""
    found: list[Places] = []
    sizes: list[Size] = []
    counts = bytearray()
    check = 0
    for name, old in before.items():
        packed, new = np.packbits(old), np.packbits(after[name])
        check = zlib.crc32(new.data, check)
        lost, gained = _moved(packed, new)
        active = int(np.bitwise_count(packed).sum(dtype=np.int64))
        found += [lost, gained]
        sizes += [Size(lost.size, active), Size(gained.size, old.size - active)]
        counts += written(lost.size) + written(folded(gained.size - lost.size))
    return bytes(counts) + subsets.encode(found, sizes) + check.to_bytes(CHECK_BYTES, "little")


def decode(data: bytes, before: FlatMasks) -> dict[str, Mask]:
    """The masks after the update. Layers in which nothing changed are those of ``before``, the others new.

    Raises:
        ValueError: bytes that ``encode`` would not have written for these masks.
    """
    sizes, cursor = _sizes(data, before)
    end = len(data) - CHECK_BYTES
    if end < cursor:
        raise ValueError("the record is cut off")
    found = iter(subsets.decode(data[cursor:end], sizes))
    after: dict[str, Mask] = {}
    check = 0
    for name, old in before.items():
        lost, gained = next(found), next(found)
        after[name] = old
        if lost.size or gained.size:
            after[name] = old.copy()
            after[name][np.flatnonzero(old)[lost]] = False
            after[name][np.flatnonzero(~old)[gained]] = True
        check = zlib.crc32(np.packbits(after[name]).data, check)
    if data[end:] != check.to_bytes(CHECK_BYTES, "little"):
        raise ValueError("the masks that result do not have their checksum")
    return after


def entropy_bits(data: bytes, before: FlatMasks) -> float:
    """The entropy of a change: what its subsets would cost at the least, when nothing but their sizes is known.

    Raises:
        ValueError: as ``decode``.
    """
    return subsets.entropy_bits(_sizes(data, before)[0])


def check_of(masks: FlatMasks) -> int:
    """The checksum of masks: CRC-32 of their bits, the first of each byte the highest, layer by layer."""
    check = 0
    for mask in masks.values():
        check = zlib.crc32(np.packbits(mask).data, check)
    return check


def _sizes(data: bytes, before: FlatMasks) -> tuple[list[Size], int]:
    sizes: list[Size] = []
    cursor = 0
    for name, old in before.items():
        active = int(np.count_nonzero(old))
        lost, cursor = read_number(data, cursor)
        more, cursor = read_number(data, cursor)
        gained = lost + unfolded(more)
        if not (0 <= lost <= active and 0 <= gained <= old.size - active):
            raise ValueError(f"more changes than weights in {name}")
        sizes += [Size(lost, active), Size(gained, old.size - active)]
    return sizes, cursor


def _moved(old: Bytes, new: Bytes) -> tuple[Places, Places]:
    """Which of the active weights were lost and which of the others gained, by their number among these.

    Args:
        old, new: packed masks; spare bits are 0.
    """
    different = np.flatnonzero(old != new)
    bits = np.unpackbits(old[different] ^ new[different]).reshape(-1, 8)
    row, bit = np.nonzero(bits)
    positions = 8 * different[row] + bit
    was = np.unpackbits(old[different]).reshape(-1, 8)[row, bit].view(np.bool_)
    # The active weights before a position: those of all bytes before its own, and those before it in its byte.
    ahead = np.cumsum(np.bitwise_count(old), dtype=np.int64)[different] - np.bitwise_count(old[different])
    within = np.bitwise_count(old[different][row] & ~(np.uint8(255) >> bit.astype(np.uint8)))
    actives = ahead[row] + within
    return actives[was], (positions - actives)[~was]
