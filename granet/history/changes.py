"""Encode what an update dropped and grew, and decode it (format 2; ``docs/history.md`` is the specification).

Two sets are written: which of the active weights were dropped, and which of the others were grown. Each is a sparse
mask over all layers in the smallest encoding of ``granet.masks.codec``, compressed, which costs about its entropy. A
checksum of the resulting masks tells a reader that its replay is right.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import lgamma, log

import numpy as np
import torch

from granet.masks import codec
from granet.masks.codec import Mask

FlatMasks = Mapping[str, Mask]
"""Masks by parameter name, bool [size of the weight], on the CPU, in the order of the network."""

CHECK_BYTES = 4
_ENCODINGS = ("bitmask", "gaps8", "gaps4")
"""By their number in the file."""
_RAW_DEFLATE = -15


def flat(masks: Mapping[str, torch.Tensor]) -> dict[str, Mask]:
    """Return masks as flat NumPy arrays in row-major order. Those on the CPU are not copied."""
    return {name: mask.detach().cpu().reshape(-1).numpy() for name, mask in masks.items()}


def checksum(masks: FlatMasks) -> int:
    """Return the CRC-32 of all masks, layer by layer, each packed to bits with the first in the highest bit."""
    check = 0
    for mask in masks.values():
        check = zlib.crc32(np.packbits(mask).data, check)
    return check


def encode(before: FlatMasks, after: FlatMasks) -> bytes:
    """Return the bytes of the change from ``before`` to ``after``, which have the same layers."""
    dropped = [~after[name][old] for name, old in before.items()]
    grown = [after[name][~old] for name, old in before.items()]
    return checksum(after).to_bytes(CHECK_BYTES, "little") + _encode_set(dropped) + _encode_set(grown)


def decode(data: bytes, before: FlatMasks) -> dict[str, Mask]:
    """Return the masks after the change. A layer in which nothing changed is the array of ``before``, others are new.

    Raises:
        ValueError: ``data`` is not a change of these masks.
    """
    active = [int(np.count_nonzero(old)) for old in before.values()]
    inactive = [old.size - count for old, count in zip(before.values(), active, strict=True)]
    dropped, rest = _decode_set(data[CHECK_BYTES:], active)
    grown, rest = _decode_set(rest, inactive)
    if rest:
        raise ValueError("bytes follow the change")
    after: dict[str, Mask] = {}
    for (name, old), lost, gained in zip(before.items(), dropped, grown, strict=True):
        after[name] = old
        if lost.any() or gained.any():
            after[name] = old.copy()
            after[name][old], after[name][~old] = ~lost, gained
    if checksum(after) != int.from_bytes(data[:CHECK_BYTES], "little"):
        raise ValueError("the resulting masks do not match their checksum")
    return after


def entropy_bits(subsets: Iterable[tuple[int, int]]) -> float:
    """Return the sum of log2 C(n, k) over subsets, each given as ``(k, n)``: k of n weights dropped or grown.

    This is the cost of the subsets when nothing is known except their sizes.
    """
    return sum((lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2) for k, n in subsets)


def _encode_set(layers: Sequence[Mask]) -> bytes:
    name, spelled = codec.encode(np.concatenate([np.zeros(0, np.bool_), *layers]))
    deflate = zlib.compressobj(wbits=_RAW_DEFLATE, strategy=zlib.Z_RLE)
    return bytes([_ENCODINGS.index(name)]) + deflate.compress(spelled.data) + deflate.flush()


def _decode_set(data: bytes, sizes: Sequence[int]) -> tuple[list[Mask], bytes]:
    """Return the set in each layer, and the bytes that follow it. Memory is bounded by ``sizes``."""
    size = sum(sizes)
    if not data or data[0] >= len(_ENCODINGS):
        raise ValueError("the change is cut off, or of an unknown encoding")
    inflate = zlib.decompressobj(wbits=_RAW_DEFLATE)
    try:
        spelled = inflate.decompress(data[1:], size + 1)  # every encoding has at most a byte an element
    except zlib.error as error:
        raise ValueError(f"not compressed data: {error}") from None
    if not inflate.eof:
        raise ValueError("the compressed data are too short or too long")
    mask = codec.decode(_ENCODINGS[data[0]], np.frombuffer(spelled, np.uint8), size)
    ends = accumulate(sizes)
    return [mask[end - count : end] for count, end in zip(sizes, ends, strict=True)], inflate.unused_data
