"""A number that tells masks apart, made on their device and never read there: cheap enough for every step."""

from __future__ import annotations

import torch
from torch import Tensor

from granet.masks.packed import PackedMasks
from granet.randomness import generator

_WORD = torch.int32
_KEPT = 52
"""Bits of the sum that are compared: a float64 holds them exactly."""


class Checksum:
    """Sums the words of a mask, each multiplied by a random odd number of its own, modulo 2**64.

    Words have half as many bits as the factors, so that the highest bit of a word still meets 33 random ones: masks
    that differ have the same sum once in 2**32 times at worst. The factors weigh twice as much as the mask.
    """

    def __init__(self) -> None:
        self._factors: Tensor | None = None

    def of(self, masks: PackedMasks) -> Tensor:
        """int64 [], from 0 to 2**52 - 1, on the device of ``masks``."""
        bits = torch.nn.functional.pad(masks.bits, (0, -len(masks.bits) % _WORD.itemsize))
        words = bits.view(_WORD)
        if self._factors is None or len(self._factors) != len(words):
            drawn = torch.randint(-(2**62), 2**62, (len(words),), generator=generator(0, "checksum"))
            self._factors = (drawn * 2 + 1).to(bits.device)
        total = (words * self._factors).sum()
        return torch.bitwise_and(torch.bitwise_right_shift(total, 64 - _KEPT), 2**_KEPT - 1)
