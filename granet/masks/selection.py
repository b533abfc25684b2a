"""Exact selection: the k best of many scores.

Nothing is sorted. A sample of the scores brackets the k-th largest; one pass marks all scores above the bracket and
collects those inside it, and only these few are partitioned. If the sampled bracket misses the k-th score, fall back to
a full partition. Of scores equal to the k-th those with the lowest flat index win, so that the result has exactly k and
is a function of the scores alone.

Scores are read a piece at a time in storage order, and the result is packed: it takes a few hundredths of their memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from granet.errors import UsageError
from granet.masks import kernels
from granet.masks.kernels import Sifted
from granet.masks.layout import Entries, Layout, Piece, flattened, only_device
from granet.masks.packed import PackedMasks
from granet.masks.random_scores import UniformScores

Tensors = Mapping[str, Tensor]
Counts = Mapping[str, int]

_SMALL = 2**16
"""Layers of up to this size are partitioned whole, many at once. Less than a piece, so that none is split."""
_SAMPLES = 2**12, 2**17
"""Bounds on the size of a sample, which is one score in 128."""


def top_k(scores: Tensor, k: int, eligible: Tensor | None = None, *, where: str | None = None) -> Tensor:
    """Return a mask of the ``k`` largest scores among the eligible ones.

    Args:
        scores: floating point, any shape. Infinities are ordinary values; NaN is refused.
        k: how many to mark, from 0 to the number of eligible positions.
        eligible: bool tensor of the same shape; None means all.
        where: what errors call the tensor.

    Returns:
        A new bool tensor shaped like ``scores`` with exactly ``k`` True, all of them eligible. Among equal scores
        the lowest flat index wins.

    Raises:
        UsageError: ``k`` out of range, or NaN among the eligible.
    """
    entries = scores.detach().reshape(-1)
    name = "" if where is None else where
    if eligible is None:
        allowed = PackedMasks.all(Layout.of({name: entries}), entries.device)
    else:
        allowed = PackedMasks.of({name: eligible.reshape(-1)})
    chosen = best({name: entries}, allowed, {name: k}, signed=True)
    return chosen[name].view(scores.shape)


def best(
    scores: Tensors, eligible: PackedMasks, budget: int | Counts, *, inactive: bool = False, signed: bool = False
) -> PackedMasks:
    """Return masks of the scores that are largest in magnitude among the eligible ones.

    Args:
        scores: floating point, for every layer of ``eligible``.
        eligible: which may be chosen.
        budget: how many to choose. A number is for all layers, whose scores then compete with each other; a mapping
            has the number of each layer, whose scores compete among themselves.
        inactive: choose among those that are not in ``eligible`` instead.
        signed: rank by the scores themselves, not by their magnitude.

    Returns:
        Masks with that many active. Among equal scores earlier layers win, and within a layer the lowest flat index.

    Raises:
        UsageError: a budget of a layer out of range, or NaN among the eligible.
    """
    chosen = eligible.cleared()
    if not isinstance(budget, Mapping):
        _Contest(scores, eligible, inactive=inactive, signed=signed).select(budget, chosen)
        return chosen
    small: list[str] = []
    for name, span in eligible.layout.items():
        available = span.size - eligible.counts[name] if inactive else eligible.counts[name]
        if not 0 <= budget[name] <= available:
            raise UsageError(
                "cannot select that many",
                where=name or None,
                got=budget[name],
                expected=f"0 to {available}, the number of eligible positions",
            )
        if span.size <= _SMALL:
            small.append(name)
        else:
            _Contest(scores, eligible.only([name]), inactive=inactive, signed=signed).select(budget[name], chosen)
    _Contest(scores, eligible.only(small), inactive=inactive, signed=signed).select_each(budget, chosen)
    chosen.counts = {name: budget[name] for name in eligible}
    return chosen


def largest(scores: Tensors) -> float:
    """Return the largest magnitude among all scores, floating point: NaN if there is one, 0 without scores."""
    layout, device = Layout.of(scores), only_device(scores)
    entries = flattened(scores, layout)
    found = [kernels.largest(piece.gather(entries)) for piece in layout.pieces(device)]
    return float(torch.stack(found).amax()) if found else 0.0


def mean_magnitudes(scores: Tensors, masks: PackedMasks) -> dict[str, float]:
    """Return the mean magnitude of each layer's active scores, which are finite; 0 for a layer without active weights.

    Sums are in double precision, where large scores do not overflow.
    """
    entries = flattened(scores, masks.layout)
    names, found = [], []
    for piece in masks.layout.pieces(masks.bits.device):
        names += [name for name, *_ in piece.parts]
        shares = [share for *_, share in piece.shares]
        found.append(kernels.active_sums(piece.gather(entries), masks.bits[piece.bytes], shares))
    sums = dict.fromkeys(masks.layout, 0.0)
    for name, total in zip(names, torch.cat(found).tolist() if found else [], strict=True):
        sums[name] += total
    return {name: total / max(masks.counts[name], 1) for name, total in sums.items()}


class _Contest:
    """The scores of some layers, ranked among all of them or layer by layer; arguments as for ``best``."""

    def __init__(self, scores: Tensors, eligible: PackedMasks, *, inactive: bool = False, signed: bool = False) -> None:
        self.scores, self.eligible, self.inactive, self.signed = scores, eligible, inactive, signed
        self.layout = eligible.layout
        self.entries: Mapping[str, Entries] = (
            scores.flattened(self.layout) if isinstance(scores, UniformScores) else flattened(scores, self.layout)
        )
        wide = any(entries.dtype == torch.float64 for entries in self.entries.values())
        self.dtype = torch.float64 if wide else torch.float32  # each is exact for all narrower types

    def select(self, budget: int, chosen: PackedMasks) -> None:
        """Mark the ``budget`` best of all these layers together in ``chosen``."""
        low, high = self._bracket(budget)

        def sift(piece: Piece) -> Sifted:
            found = kernels.sift(*self._read(piece), low, high, chosen.bits[piece.bytes])
            first = 8 * piece.bytes.start
            return found._replace(indices=found.indices + first if first < 2**30 else found.indices.long() + first)

        sifted = [sift(piece) for piece in self._pieces()]
        if not sifted:
            return
        missing = budget - int(torch.stack([found.above for found in sifted]).sum())
        left = kernels.join([found.scores for found in sifted])
        self._refuse_nan(left)  # NaN is neither above the bracket nor below it
        if not 0 <= missing <= len(left):
            sifted.clear()
            end = high if missing < 0 else low
            if not self._select_if_last(budget, chosen, end):
                self._select_by_partition(budget, chosen)
        elif missing:
            bound = kernels.kth_largest(left, missing)
            del left
            reached = [found.reaching(bound) for found in sifted]
            sifted.clear()
            indices, scores = (kernels.join([one[part] for one in reached]) for part in (1, 2))
            if surplus := len(indices) - missing:
                tied = kernels.positions(scores == bound)
                last = self._logical(indices[tied]).argsort()[-surplus:]
                indices[tied[last]] = -1
                indices = indices[indices >= 0]
            kernels.add_bits(chosen.bits, indices)

    def select_each(self, budgets: Counts, chosen: PackedMasks) -> None:
        """Mark the ``budgets[name]`` best of each layer, with as many launches for all layers of a piece as for one."""
        for piece in self._pieces():
            scores, eligible = self._read(piece)
            names = [name for name, *_ in piece.parts]
            lengths, wanted = [self._available(name) for name in names], [budgets[name] for name in names]
            indices = kernels.positions(kernels.unpack(eligible))
            allowed = kernels.take(scores, indices)
            self._refuse_nan(allowed)
            taken = kernels.best_each(allowed, lengths, wanted)
            if int(taken.count_nonzero()) == sum(wanted):
                marks = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
                chosen.bits[piece.bytes] = kernels.pack(marks.index_put_((indices,), taken))
            else:  # some that are equal to the last of a layer
                for name in names:
                    alone = self.eligible.only([name])
                    contest = _Contest(self.scores, alone, inactive=self.inactive, signed=self.signed)
                    contest._select_by_partition(budgets[name], chosen)

    def _select_if_last(self, budget: int, chosen: PackedMasks, bound: Tensor) -> bool:
        """Mark the ``budget`` best if ``bound`` is the last of them; return whether it is.

        Where scores occur many times, zeros above all, no bracket separates them, but one of its ends is that score.
        """
        ties = self.eligible.cleared()
        for piece in self._pieces():
            scores, eligible = self._read(piece)
            reached = kernels.at_least(scores, bound).bitwise_and_(eligible)
            equal = kernels.at_most(scores, bound).bitwise_and_(reached)
            ties.bits[piece.bytes], chosen.bits[piece.bytes] = equal, reached.bitwise_xor_(equal)
        above = PackedMasks(self.layout, chosen.bits).counts
        left = budget - sum(above.values())
        if not 0 < left <= sum(ties.counts.values()):
            return False
        for name, span in self.layout.items():
            bits = slice(span.start, span.end)
            if ties.counts[name] <= left:
                chosen.bits[bits] |= ties.bits[bits]
            else:
                tied = kernels.positions(kernels.unpack(ties.bits[bits]))
                if not span.plain:
                    tied = tied[span.logical(tied).argsort()]
                kernels.add_bits(chosen.bits[bits], tied[:left])
            left = max(left - ties.counts[name], 0)
        return True

    def _select_by_partition(self, budget: int, chosen: PackedMasks) -> None:
        """Mark the ``budget`` best by a full partition of all scores, in logical order."""
        scores = torch.cat([self._compared(self.scores[name].detach().reshape(-1)) for name in self.layout])
        eligible = torch.cat([self.eligible[name].reshape(-1) for name in self.layout])
        if self.inactive:
            eligible.logical_not_()
        marks = torch.zeros_like(eligible)
        if budget:
            bound = kernels.kth_largest(kernels.take(scores, kernels.positions(eligible)), budget)
            torch.ge(scores, bound, out=marks).logical_and_(eligible)
            if surplus := int(marks.count_nonzero()) - budget:
                tied = kernels.positions((scores == bound).logical_and_(marks))
                marks[tied[-surplus:]] = False
        spans = self.layout.values()
        parts = torch.split(marks, [span.size for span in spans])
        shaped = [part.view(span.shape) for part, span in zip(parts, spans, strict=True)]
        chosen.copy_from(PackedMasks.of(dict(zip(self.layout, shaped, strict=True)), self.layout))

    def _pieces(self) -> Sequence[Piece]:
        return self.layout.pieces(self.eligible.bits.device)

    def _read(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Return the compared values of a piece, valid until the next is read, and as bits which are eligible."""
        eligible = self.eligible.bits[piece.bytes]
        if self.inactive:
            eligible = kernels.invert(eligible)
            piece.clear_spare(eligible)
        return self._compared(piece.gather(self.entries), scratch=True), eligible

    def _compared(self, scores: Tensor, *, scratch: bool = False) -> Tensor:
        """Return what is compared, scores or their magnitudes; ``scratch`` as for ``kernels.magnitudes``."""
        scores = scores.to(self.dtype)
        return scores if self.signed else kernels.magnitudes(scores, scratch=scratch)

    def _available(self, name: str) -> int:
        active = self.eligible.counts[name]
        return self.layout[name].size - active if self.inactive else active

    def _bracket(self, budget: int) -> tuple[Tensor, Tensor]:
        """Return two values that the ``budget``-th largest most probably lies between; NaN where there is no limit."""
        total = self.layout.size
        device = self.eligible.bits.device
        none = torch.full((), torch.nan, dtype=self.dtype, device=device)
        if total <= _SMALL:
            return none, none
        fewest, most = _SAMPLES
        step = _step(total // (8 * min(max(total // 128, fewest), most)))  # in bytes of the mask
        scores = torch.cat([self.entries[name][:: 8 * step] for name in self.layout])
        bits = kernels.join([self.eligible.bits[span.start : span.end : step] for span in self.layout.values()])
        indices = kernels.positions((bits & 1) != self.inactive)
        sample = kernels.ascending(kernels.take(self._compared(scores), indices))
        # The quantiles of what is compared, those that are not eligible below all others.
        share = budget / total
        middle, spread = share * len(scores) - 0.5, 4.0 * math.sqrt(len(scores) * share * (1 - share)) + 2.0

        def from_top(rank: int) -> Tensor:
            return sample[len(sample) - 1 - rank] if 0 <= rank < len(sample) else none

        return from_top(math.ceil(middle + spread)), from_top(math.floor(middle - spread))

    def _logical(self, indices: Tensor) -> Tensor:
        """Return keys that sort indices of bits in logical order."""
        for span in self.layout.values():
            if not span.plain:
                first = 8 * span.start
                inside = kernels.positions((indices >= first) & (indices < 8 * span.end))
                indices = indices.index_put((inside,), first + span.logical(indices[inside] - first))
        return indices

    def _refuse_nan(self, scores: Tensor) -> None:
        """Raise UsageError for NaN among ``scores``, all of them eligible."""
        if not kernels.has_nan(scores):
            return
        for name in self.layout:
            eligible = self.eligible[name].logical_not_() if self.inactive else self.eligible[name]
            if bool(self.scores[name].isnan().logical_and_(eligible).any()):
                raise UsageError(
                    "scores contain NaN",
                    where=name or None,
                    remedy="a weight or a gradient is not a number; look at the loss",
                )


def _step(step: int) -> int:
    """Return about ``step``, coprime to the sizes that layers have, so that a sample sees all of a layer."""
    return next(number for number in range(max(step, 1), 0, -1) if math.gcd(number, 2 * 3 * 5 * 7) == 1)
