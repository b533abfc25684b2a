"""Vectorised operations on flat tensors for selection: NumPy on a CPU, torch elsewhere.

On a CPU, NumPy compares, counts, packs and partitions several times as fast as torch. Both give the same result to the
bit, which the tests compare.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_buffers = threading.local()

_LARGE = 2**17
"""Bytes from which memory is mapped from the system rather than taken from the allocator."""


# Masks as bits, eight a byte, the lowest index in the lowest bit


def no_bits(count: int, device: torch.device) -> Tensor:
    """Return ``count`` bytes of zeros, uint8."""
    if device.type == "cpu" and count >= _LARGE:
        return torch.from_numpy(_from_system(count))
    return torch.zeros(count, dtype=torch.uint8, device=device)


def pack(mask: Tensor) -> Tensor:
    """Return ``mask``, bool [n] with n a multiple of 8, as bits: uint8 [n / 8]."""
    if _on_cpu(mask):
        return torch.from_numpy(_packed(mask.numpy()))
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (mask.view(-1, 8).to(torch.uint8) << shifts).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor) -> Tensor:
    """Return ``bits``, uint8 [m], as a mask: bool [8 m]. The inverse of ``pack``."""
    if _on_cpu(bits):
        return torch.from_numpy(_unpacked(bits.numpy()))
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(1) >> shifts) & 1).view(torch.bool).view(-1)


def invert(bits: Tensor) -> Tensor:
    """Return the complement of ``bits``."""
    return torch.from_numpy(~bits.numpy()) if _on_cpu(bits) else ~bits


def count_bits(bits: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return how many bits are set in consecutive parts of ``bits``, uint8, of these lengths, none 0: int64."""
    ends = list(accumulate(lengths))
    spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    if _on_cpu(bits):
        if len(spans) == 1:
            return torch.tensor([_ones(bits.numpy()[spans[0]])])
        return torch.from_numpy(_sums(np.bitwise_count(bits.numpy()[: ends[-1]]), spans))
    pairs = bits - ((bits >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    ones = (nibbles + (nibbles >> 4)) & 0x0F
    if len(spans) == 1:
        return ones.sum(dtype=torch.int64).view(1)
    sums = torch.cat([ones.new_zeros(1, dtype=torch.int64), ones.cumsum(0)])
    start, stop = torch.tensor([[span.start for span in spans], ends], device=bits.device)
    return sums[stop] - sums[start]


def add_bits(bits: Tensor, positions: Tensor) -> None:
    """Set the bits at ``positions``, integers without repetition, none of which may be set before."""
    # Different bits of one byte add up without a carry.
    if _on_cpu(bits):
        indices = positions.numpy()
        np.add.at(bits.numpy(), indices >> 3, (1 << (indices & 7)).astype(np.uint8))
        return
    bits.index_add_(0, positions >> 3, torch.ones_like(positions, dtype=torch.uint8) << (positions & 7).to(torch.uint8))


def divided(numbers: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Return quotients and remainders of ``numbers``, int64, none negative."""
    quotients = torch.from_numpy(numbers.numpy() // by) if _on_cpu(numbers) else numbers // by
    return quotients, numbers - quotients * by


# SplitMix64: a counter in equal strides, and two rounds of shifts and multiplications that mix its bits.
_STRIDE, _ROUNDS = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_FINE = 24
"""Bits of a float32 in [0, 1)."""


def uniform(key: int, positions: Tensor, *, out: Tensor) -> None:
    """Write the uniform numbers that SplitMix64, seeded with ``key``, has at ``positions`` to ``out``, float32."""
    if _on_cpu(positions):
        mixed = positions.numpy().astype(np.uint64)
        mixed += np.uint64(1)
        mixed *= np.uint64(_STRIDE)
        mixed += np.uint64(key)
        shifted = np.empty_like(mixed)
        for shift, factor in _ROUNDS:
            np.right_shift(mixed, np.uint64(shift), out=shifted)
            mixed ^= shifted
            mixed *= np.uint64(factor)
        # The last step of SplitMix64 leaves the highest bits as they are.
        mixed >>= np.uint64(64 - _FINE)
        np.multiply(mixed.view(np.int64), np.float32(2.0**-_FINE), out=out.numpy(), casting="same_kind")
        return
    mixing = (positions + 1).mul_(_signed(_STRIDE)).add_(_signed(key))
    for shift, factor in _ROUNDS:
        # An arithmetic shift, with the copies of the sign bit cleared.
        mixing.bitwise_xor_((mixing >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(_signed(factor))
    out.copy_((mixing >> (64 - _FINE)).bitwise_and_((1 << _FINE) - 1))
    out.mul_(2.0**-_FINE)


def _signed(number: int) -> int:
    """Return the signed integer with the 64 bits of ``number``."""
    return number - (1 << 64) if number >> 63 else number


# Scores to compare, themselves or their magnitudes: float32 or float64


def at_least(scores: Tensor, bound: Tensor) -> Tensor:
    """Return a bit mask of the scores that are at least the 0-d ``bound``, none if it is NaN.

    The number of scores is a multiple of 8.
    """
    return torch.from_numpy(_packed(scores.numpy() >= bound.numpy())) if _on_cpu(scores) else pack(scores >= bound)


def at_most(scores: Tensor, bound: Tensor) -> Tensor:
    """Return as bits which scores are ``bound`` or less."""
    return torch.from_numpy(_packed(scores.numpy() <= bound.numpy())) if _on_cpu(scores) else pack(scores <= bound)


class Sifted(NamedTuple):
    """Scores split by a bracket: the number above it, and the indices (int32) and scores inside it."""

    above: Tensor
    indices: Tensor
    scores: Tensor

    def reaching(self, bound: Tensor) -> Sifted:
        """Return this with only those scores of the bracket that are ``bound``, 0-d, or more."""
        if _on_cpu(self.scores):
            found = np.flatnonzero(self.scores.numpy() >= bound.numpy())
            indices, scores = (torch.from_numpy(part.numpy()[found]) for part in (self.indices, self.scores))
            return self._replace(indices=indices, scores=scores)
        reached = self.scores >= bound
        return self._replace(indices=self.indices[reached], scores=self.scores[reached])


def sift(scores: Tensor, eligible: Tensor, low: Tensor, high: Tensor, above: Tensor) -> Sifted:
    """Split the eligible scores into those that are ``high`` or more and those between ``low`` and ``high``.

    Args:
        scores: as many as a multiple of 8. NaN counts as between the two.
        eligible: bits.
        low: 0-d, NaN for no limit.
        high: 0-d, NaN for no limit.
        above: where to write the bits of those that are ``high`` or more.
    """
    if _on_cpu(scores):
        values, allowed, upper = scores.numpy(), eligible.numpy(), above.numpy()
        reached = _packed(np.greater_equal(values, high.numpy(), out=_scratch(values.size, np.bool_)))
        np.bitwise_and(reached, allowed, out=upper)
        reached |= _packed(np.less_equal(values, low.numpy(), out=_scratch(values.size, np.bool_)))
        np.bitwise_not(reached, out=reached)
        reached &= allowed
        # Few bytes have any bit left, and only those are unpacked.
        some = np.flatnonzero(reached != 0)
        found = np.flatnonzero(_unpacked(reached[some]))
        indices = (some[found >> 3] << 3) + (found & 7)
        scores = torch.from_numpy(values[indices])
        return Sifted(torch.tensor(_ones(upper)), torch.from_numpy(indices.astype(np.int32)), scores)
    competing = unpack(eligible)
    over = (scores >= high).logical_and_(competing)
    above.copy_(pack(over))
    inside = positions((scores <= low).logical_or_(over).logical_not_().logical_and_(competing))
    return Sifted(over.count_nonzero(), inside.int(), scores[inside])


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """Return the ``k``-th largest of ``scores``, which have no NaN: 0-d; ``k`` from 1 to their number."""
    if _on_cpu(scores):
        return torch.from_numpy(np.asarray(_kth_largest(scores.numpy(), k)))
    return torch.topk(scores, k, sorted=False).values.amin()


def best_each(scores: Tensor, lengths: Sequence[int], ks: Sequence[int]) -> Tensor:
    """Return a bool mask of the ``ks`` largest of each part of ``scores``, and of all that tie with the last of them.

    Args:
        scores: without NaN; parts of these ``lengths`` follow each other.
        lengths: of the parts.
        ks: for each part, from 0 to its length.
    """
    if _on_cpu(scores):
        values, begin = scores.numpy(), 0
        marks = np.zeros(values.shape, np.bool_)
        for length, k in zip(lengths, ks, strict=True):
            if k:
                part = values[begin : begin + length]
                np.greater_equal(part, _kth_largest(part, k), out=marks[begin : begin + length])
            begin += length
        return torch.from_numpy(marks)
    if not len(scores):
        return torch.zeros_like(scores, dtype=torch.bool)
    # Sorted by score and then by part, all parts at once: as many launches for a hundred of them as for one.
    sizes, wanted = torch.tensor([lengths, ks], device=scores.device)
    of = torch.repeat_interleave(torch.arange(len(lengths), device=scores.device), sizes, output_size=len(scores))
    order = scores.argsort(descending=True)
    order = order[of[order].argsort(stable=True)]
    last = (sizes.cumsum(0) - sizes + wanted - 1).clamp(min=0, max=len(scores) - 1)
    bounds = scores[order[last]].masked_fill(wanted == 0, torch.nan)
    return scores >= bounds[of]


def active_sums(scores: Tensor, bits: Tensor, shares: Sequence[slice]) -> Tensor:
    """Return the sum of the finite magnitudes where the bit is set, for each share of ``scores``: float64."""
    if _on_cpu(scores) and scores.dtype in (torch.float32, torch.float64):
        values, marks = scores.numpy(), _unpacked(bits.numpy())
        sums = [np.abs(values[share][marks[share]]).sum(dtype=np.float64) for share in shares]
        return torch.tensor(sums, dtype=torch.float64)
    chosen = scores.abs().double().mul_(unpack(bits))
    return torch.stack([chosen[share].sum() for share in shares])


def magnitudes(scores: Tensor, *, scratch: bool = False) -> Tensor:
    """Return absolute values. With ``scratch``, return a thread-local scratch buffer, valid until the next call."""
    if not (scratch and _on_cpu(scores)):
        return scores.abs()
    return torch.abs(scores, out=torch.from_numpy(_scratch(scores.numel(), scores.numpy().dtype)))


def ascending(scores: Tensor) -> Tensor:
    """Return ``scores`` in ascending order."""
    return torch.from_numpy(np.sort(scores.numpy())) if _on_cpu(scores) else scores.sort().values


def largest(scores: Tensor) -> Tensor:
    """Return the largest magnitude, 0-d float64; NaN if there is one."""
    lowest, highest = scores.aminmax()
    return torch.maximum(-lowest, highest).double()


def has_nan(scores: Tensor) -> bool:
    """Whether any rank is NaN."""
    if not len(scores):
        return False
    # The maximum is the cheapest reduction that propagates NaN.
    return bool(np.isnan(scores.numpy().max())) if _on_cpu(scores) else bool(scores.amax().isnan())


def take(tensor: Tensor, indices: Tensor) -> Tensor:
    """Return ``tensor[indices]``."""
    return torch.from_numpy(tensor.numpy()[indices.numpy()]) if _on_cpu(tensor) else tensor[indices]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate ``parts``, at least one."""
    if _on_cpu(parts[0]):
        return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))
    return torch.cat([*parts])


def positions(mask: Tensor) -> Tensor:
    """Return the indices where ``mask`` is True, ascending, int64."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if _on_cpu(mask) else mask.nonzero().view(-1)


def multiply(integers: Sequence[Tensor], mask: Tensor, shares: Sequence[slice]) -> None:
    """Multiply each of ``integers``, of any integer types, by its share of ``mask``, bool, in place."""
    for dtype in {tensor.dtype for tensor in integers}:
        factor = mask.to(dtype)  # of one type, all are multiplied in one launch
        pairs = [(tensor, factor[share]) for tensor, share in zip(integers, shares, strict=True)]
        pairs = [(tensor, part) for tensor, part in pairs if tensor.dtype == dtype]
        torch._foreach_mul_([tensor for tensor, _ in pairs], [part for _, part in pairs])


def copy(targets: Sequence[Tensor], mask: Tensor, shares: Sequence[slice], active: int) -> None:
    """Write its share of ``mask``, bool, to each of ``targets``, signed integers of one type: ``active`` for True."""
    spelled = mask.view(torch.int8) * active
    torch._foreach_copy_(list(targets), [spelled[share] for share in shares])


def _scratch(size: int, dtype: Any) -> NDArray[Any]:
    """Return this thread's scratch buffer of the type, for ``size`` values."""
    kind = np.dtype(dtype)
    room: NDArray[Any] | None = getattr(_buffers, kind.name, None)
    if room is None or room.size < size:
        room = _from_system(max(size, 1) * kind.itemsize).view(kind)
        setattr(_buffers, kind.name, room)
    return room[:size]


def _from_system(size: int) -> NDArray[np.uint8]:
    """Return ``size`` bytes of zeros that go back to the system as soon as they are freed.

    An allocator keeps freed memory: of the masks that come and go at every update about half.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return np.frombuffer(mmap.mmap(-1, size, **private), np.uint8)


def _packed(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(mask, bitorder="little")


def _unpacked(bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.unpackbits(bits, bitorder="little").view(np.bool_)


def _ones(bits: NDArray[np.uint8]) -> int:
    whole = bits.size // 8 * 8  # eight bytes at a time
    count = int(np.bitwise_count(bits[:whole].view(np.uint64)).sum(dtype=np.int64))
    return count + int(np.bitwise_count(bits[whole:]).sum(dtype=np.int64)) if whole < bits.size else count


def _sums(ones: NDArray[np.uint8], spans: Sequence[slice]) -> NDArray[np.int64]:
    """Return the sum of each of the ``spans``, which are consecutive and not empty."""
    return np.add.reduceat(ones, [span.start for span in spans], dtype=np.int64)


def _kth_largest(values: NDArray[Any], k: int) -> Any:
    return np.partition(values, values.size - k)[values.size - k]


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
