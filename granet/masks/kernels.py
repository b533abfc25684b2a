"""The few operations on flat tensors that selection is made of, each as fast as its device allows.

On a CPU, NumPy compares, counts, packs and partitions several times as fast as torch does; elsewhere torch does it.
Both ways give the same result to the bit, and the tests hold them against each other.
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

_rooms = threading.local()

_LARGE = 2**17
"""Bytes from which on memory comes from the system itself."""


# Masks as bits, eight a byte, the lowest index in the lowest bit


def no_bits(count: int, device: torch.device) -> Tensor:
    """As many bytes, uint8, in which no bit is set."""
    if device.type == "cpu" and count >= _LARGE:
        return torch.from_numpy(_from_system(count))
    return torch.zeros(count, dtype=torch.uint8, device=device)


def pack(mask: Tensor) -> Tensor:
    """The bits of ``mask``, bool [n], n a multiple of 8: uint8 [n / 8]."""
    if _on_cpu(mask):
        return torch.from_numpy(_packed(mask.numpy()))
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (mask.view(-1, 8).to(torch.uint8) << places).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor) -> Tensor:
    """The mask that ``pack`` made ``bits``, uint8 [m], of: bool [8 m]."""
    if _on_cpu(bits):
        return torch.from_numpy(_unpacked(bits.numpy()))
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(1) >> places) & 1).view(torch.bool).view(-1)


def invert(bits: Tensor) -> Tensor:
    """All other bits."""
    return torch.from_numpy(~bits.numpy()) if _on_cpu(bits) else ~bits


def count_bits(bits: Tensor, lengths: Sequence[int]) -> Tensor:
    """How many bits are set in each part of ``bits``, uint8; parts of these lengths, none 0, are in a row. int64."""
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
    """Sets the bits at ``positions``, integers, each once and none of them set before."""
    # Different bits of one byte add up without a carry.
    if _on_cpu(bits):
        where = positions.numpy()
        np.add.at(bits.numpy(), where >> 3, (1 << (where & 7)).astype(np.uint8))
        return
    bits.index_add_(0, positions >> 3, torch.ones_like(positions, dtype=torch.uint8) << (positions & 7).to(torch.uint8))


def divided(numbers: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotients and remainders of ``numbers``, int64, none below 0."""
    quotients = torch.from_numpy(numbers.numpy() // by) if _on_cpu(numbers) else numbers // by
    return quotients, numbers - quotients * by


# SplitMix64: a counter in equal strides, and two rounds of shifts and multiplications that mix its bits.
_STRIDE, _ROUNDS = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_FINE = 24
"""Bits of a float32 in [0, 1)."""


def uniform(key: int, positions: Tensor, *, out: Tensor) -> None:
    """Writes the numbers that SplitMix64, started at ``key``, has at ``positions``, int64, to ``out``, float32."""
    if _on_cpu(positions):
        mixed = positions.numpy().astype(np.uint64)
        mixed += np.uint64(1)
        mixed *= np.uint64(_STRIDE)
        mixed += np.uint64(key)
        shifted = np.empty_like(mixed)
        for places, factor in _ROUNDS:
            np.right_shift(mixed, np.uint64(places), out=shifted)
            mixed ^= shifted
            mixed *= np.uint64(factor)
        # The last step of SplitMix64 leaves the highest bits as they are.
        mixed >>= np.uint64(64 - _FINE)
        np.multiply(mixed.view(np.int64), np.float32(2.0**-_FINE), out=out.numpy(), casting="same_kind")
        return
    mixing = (positions + 1).mul_(_signed(_STRIDE)).add_(_signed(key))
    for places, factor in _ROUNDS:
        # Shifted as signed integers are, with the sign's copies cleared.
        mixing.bitwise_xor_((mixing >> places).bitwise_and_((1 << (64 - places)) - 1)).mul_(_signed(factor))
    out.copy_((mixing >> (64 - _FINE)).bitwise_and_((1 << _FINE) - 1))
    out.mul_(2.0**-_FINE)


def _signed(number: int) -> int:
    """The signed integer that has the 64 bits of ``number``."""
    return number - (1 << 64) if number >> 63 else number


# Ranks: float32 or float64


def at_least(ranks: Tensor, bound: Tensor) -> Tensor:
    """Bits of the ranks, as many as a multiple of 8, that are ``bound``, 0-d, or more; none where it is NaN."""
    return torch.from_numpy(_packed(ranks.numpy() >= bound.numpy())) if _on_cpu(ranks) else pack(ranks >= bound)


def at_most(ranks: Tensor, bound: Tensor) -> Tensor:
    """Bits of the ranks that are ``bound`` or less."""
    return torch.from_numpy(_packed(ranks.numpy() <= bound.numpy())) if _on_cpu(ranks) else pack(ranks <= bound)


class Sifted(NamedTuple):
    """What a bracket leaves of some ranks: how many are above it, and which are in it, with where they were, int32."""

    above: Tensor
    places: Tensor
    ranks: Tensor

    def reaching(self, bound: Tensor) -> Sifted:
        """Those in the bracket that are ``bound``, 0-d, or more."""
        if _on_cpu(self.ranks):
            found = np.flatnonzero(self.ranks.numpy() >= bound.numpy())
            places, ranks = (torch.from_numpy(part.numpy()[found]) for part in (self.places, self.ranks))
            return self._replace(places=places, ranks=ranks)
        reached = self.ranks >= bound
        return self._replace(places=self.places[reached], ranks=self.ranks[reached])


def sift(ranks: Tensor, eligible: Tensor, low: Tensor, high: Tensor, above: Tensor) -> Sifted:
    """Separates the eligible ranks that are ``high`` or more from those that are above ``low``, and drops the rest.

    Args:
        ranks: as many as a multiple of 8. NaN counts as between the two.
        eligible: bits.
        low: 0-d, NaN for no limit.
        high: 0-d, NaN for no limit.
        above: where to write the bits of those that are ``high`` or more.
    """
    if _on_cpu(ranks):
        values, allowed, upper = ranks.numpy(), eligible.numpy(), above.numpy()
        reached = _packed(np.greater_equal(values, high.numpy(), out=_room(values.size, np.bool_)))
        np.bitwise_and(reached, allowed, out=upper)
        reached |= _packed(np.less_equal(values, low.numpy(), out=_room(values.size, np.bool_)))
        np.bitwise_not(reached, out=reached)
        reached &= allowed
        # Few bytes have any bit left, and only those are unpacked.
        some = np.flatnonzero(reached != 0)
        found = np.flatnonzero(_unpacked(reached[some]))
        places = (some[found >> 3] << 3) + (found & 7)
        ranks = torch.from_numpy(values[places])
        return Sifted(torch.tensor(_ones(upper)), torch.from_numpy(places.astype(np.int32)), ranks)
    competing = unpack(eligible)
    over = (ranks >= high).logical_and_(competing)
    above.copy_(pack(over))
    inside = positions((ranks <= low).logical_or_(over).logical_not_().logical_and_(competing))
    return Sifted(over.count_nonzero(), inside.int(), ranks[inside])


def kth_largest(ranks: Tensor, k: int) -> Tensor:
    """The ``k``-th largest of ``ranks``, without NaN; 0-d, ``k`` from 1 to their number."""
    if _on_cpu(ranks):
        return torch.from_numpy(np.asarray(_kth_largest(ranks.numpy(), k)))
    return torch.topk(ranks, k, sorted=False).values.amin()


def best_each(ranks: Tensor, lengths: Sequence[int], ks: Sequence[int]) -> Tensor:
    """Marks the ``ks`` largest of each part of ``ranks``, with all that equal the smallest of these; bool.

    Args:
        ranks: without NaN; parts of these ``lengths`` follow each other.
        lengths: of the parts.
        ks: for each part, from 0 to its length.
    """
    if _on_cpu(ranks):
        values, begin = ranks.numpy(), 0
        marks = np.zeros(values.shape, np.bool_)
        for length, k in zip(lengths, ks, strict=True):
            if k:
                part = values[begin : begin + length]
                np.greater_equal(part, _kth_largest(part, k), out=marks[begin : begin + length])
            begin += length
        return torch.from_numpy(marks)
    if not len(ranks):
        return torch.zeros_like(ranks, dtype=torch.bool)
    # Sorted by rank and then by part, all parts at once: as many launches for a hundred of them as for one.
    sizes, wanted = torch.tensor([lengths, ks], device=ranks.device)
    of = torch.repeat_interleave(torch.arange(len(lengths), device=ranks.device), sizes, output_size=len(ranks))
    order = ranks.argsort(descending=True)
    order = order[of[order].argsort(stable=True)]
    last = (sizes.cumsum(0) - sizes + wanted - 1).clamp(min=0, max=len(ranks) - 1)
    bounds = ranks[order[last]].masked_fill(wanted == 0, torch.nan)
    return ranks >= bounds[of]


def active_sums(scores: Tensor, bits: Tensor, shares: Sequence[slice]) -> Tensor:
    """The sum of the magnitudes where the bit is set, for each share of ``scores``, finite ones; float64."""
    if _on_cpu(scores) and scores.dtype in (torch.float32, torch.float64):
        values, marks = scores.numpy(), _unpacked(bits.numpy())
        sums = [np.abs(values[share][marks[share]]).sum(dtype=np.float64) for share in shares]
        return torch.tensor(sums, dtype=torch.float64)
    chosen = scores.abs().double().mul_(unpack(bits))
    return torch.stack([chosen[share].sum() for share in shares])


def magnitudes(scores: Tensor, *, passing: bool = False) -> Tensor:
    """Absolute values. Those that are ``passing`` hold until this thread asks for such values once more."""
    if not (passing and _on_cpu(scores)):
        return scores.abs()
    return torch.abs(scores, out=torch.from_numpy(_room(scores.numel(), scores.numpy().dtype)))


def ascending(ranks: Tensor) -> Tensor:
    """``ranks`` sorted."""
    return torch.from_numpy(np.sort(ranks.numpy())) if _on_cpu(ranks) else ranks.sort().values


def largest(scores: Tensor) -> Tensor:
    """The largest magnitude, 0-d float64; NaN where there is one."""
    lowest, highest = scores.aminmax()
    return torch.maximum(-lowest, highest).double()


def has_nan(ranks: Tensor) -> bool:
    """Whether there is NaN among them."""
    if not len(ranks):
        return False
    # Of all reductions the largest is the cheapest that NaN gets through.
    return bool(np.isnan(ranks.numpy().max())) if _on_cpu(ranks) else bool(ranks.amax().isnan())


def take(tensor: Tensor, places: Tensor) -> Tensor:
    """``tensor[places]``."""
    return torch.from_numpy(tensor.numpy()[places.numpy()]) if _on_cpu(tensor) else tensor[places]


def join(parts: Sequence[Tensor]) -> Tensor:
    """One after the other, at least one."""
    if _on_cpu(parts[0]):
        return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))
    return torch.cat([*parts])


def positions(mask: Tensor) -> Tensor:
    """Where ``mask`` is True, ascending, int64."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if _on_cpu(mask) else mask.nonzero().view(-1)


def multiply(integers: Sequence[Tensor], mask: Tensor, shares: Sequence[slice]) -> None:
    """Multiplies each of ``integers``, of any size, by its share of ``mask``, bool, in place."""
    for kind in {tensor.dtype for tensor in integers}:
        factor = mask.to(kind)  # of one type, all are multiplied in one launch
        pairs = [(tensor, factor[share]) for tensor, share in zip(integers, shares, strict=True)]
        pairs = [(tensor, part) for tensor, part in pairs if tensor.dtype == kind]
        torch._foreach_mul_([tensor for tensor, _ in pairs], [part for _, part in pairs])


def copy(targets: Sequence[Tensor], mask: Tensor, shares: Sequence[slice], active: int) -> None:
    """Writes to each of ``targets``, signed integers of one type, its share of ``mask``, bool: ``active`` for True."""
    spelled = mask.view(torch.int8) * active
    torch._foreach_copy_(list(targets), [spelled[share] for share in shares])


def _room(size: int, dtype: Any) -> NDArray[Any]:
    """Memory for ``size`` passing values: of each type, this thread has one."""
    kind = np.dtype(dtype)
    room: NDArray[Any] | None = getattr(_rooms, kind.name, None)
    if room is None or room.size < size:
        room = _from_system(max(size, 1) * kind.itemsize).view(kind)
        setattr(_rooms, kind.name, room)
    return room[:size]


def _from_system(size: int) -> NDArray[np.uint8]:
    """As many bytes, all 0, which the system has back as soon as they are not used any more.

    An allocator keeps what it is given back for whatever comes next, and the more of it the larger it is: of masks that
    come and go at every update it would keep the half.
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
    """Of each of the ``spans``, which follow each other, none of them empty."""
    return np.add.reduceat(ones, [span.start for span in spans], dtype=np.int64)


def _kth_largest(values: NDArray[Any], k: int) -> Any:
    return np.partition(values, values.size - k)[values.size - k]


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
