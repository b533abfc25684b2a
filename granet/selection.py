"""Exact selection: the k best of many scores.

Sorting is never needed. The k-th largest score is found by partition, everything above it is taken, and of those
equal to it the ones with the lowest flat index, so that exactly k are chosen and the choice is a function of the
scores alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from granet.errors import UsageError
from granet.randomness import generator


def top_k(scores: Tensor, k: int, eligible: Tensor | None = None, *, where: str | None = None) -> Tensor:
    """Marks the ``k`` largest scores among the eligible ones.

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
    flat = scores.detach().reshape(-1)
    allowed = None if eligible is None else eligible.reshape(-1)
    available = flat.numel() if allowed is None else int(allowed.count_nonzero())
    if not 0 <= k <= available:
        raise UsageError(
            "cannot select that many",
            where=where,
            got=k,
            expected=f"0 to {available}, the number of eligible positions",
        )
    # Of all reductions amax is the cheapest that NaN gets through.
    if flat.numel() and bool(flat.amax().isnan()) and bool(_among(flat.isnan(), allowed).any()):
        raise UsageError(
            "scores contain NaN", where=where, remedy="a weight or a gradient is not a number; look at the loss"
        )
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool, memory_format=torch.contiguous_format)
    threshold = _kth_largest(flat, k, allowed, available)
    chosen = _among(flat >= threshold, allowed)
    surplus = int(chosen.count_nonzero()) - k
    if surplus:
        ties = (chosen & (flat == threshold)).nonzero().view(-1)
        chosen[ties[-surplus:]] = False
    return chosen.view(scores.shape)


def _among(marks: Tensor, eligible: Tensor | None) -> Tensor:
    """``marks``, overwritten, but only where eligible."""
    return marks if eligible is None else marks.logical_and_(eligible)


_SAMPLE = 4096


def _kth_largest(scores: Tensor, k: int, eligible: Tensor | None, available: int) -> Tensor:
    """The ``k``-th largest eligible score, 1 <= k <= available, as a 0-d tensor; none of them may be NaN.

    A random sample brackets the answer (Floyd and Rivest 1975), two comparisons with the whole find what lies
    between, and only that little is partitioned. The result is exact whatever the sample. Scores that occur many
    times, zeros above all, cost nothing extra: they can only be an end of the bracket, which is left out.
    """
    size = scores.numel()
    bracket = _bracket(scores, k / available, eligible) if size > 8 * _SAMPLE else None
    if bracket is not None:
        low, high = bracket
        below_high, above_low = _among(scores < high, eligible), _among(scores > low, eligible)
        at_least_high = available - int(below_high.count_nonzero())
        if at_least_high < k <= int(above_low.count_nonzero()):
            return _kth_by_partition(scores[below_high.logical_and_(above_low)], k - at_least_high)
        for end in (high, low):
            above, at_least = _among(scores > end, eligible), _among(scores >= end, eligible)
            if int(above.count_nonzero()) < k <= int(at_least.count_nonzero()):
                return end
    # Small, or an unlucky sample.
    return _kth_by_partition(scores if eligible is None else scores[eligible], k)


def _bracket(scores: Tensor, share: float, eligible: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Two scores that the one at ``share`` from the top most probably lies between; None when few are eligible."""
    # Keyed by the size alone, for the same sample and so the same speed every time.
    size = scores.numel()
    places = torch.randint(size, (_SAMPLE,), generator=generator(0, "sample", size)).to(scores.device)
    sample = scores[places] if eligible is None else scores[places][eligible[places]]
    count = sample.numel()
    if count < 64:
        return None
    sample = sample.sort(descending=True).values
    middle, spread = share * count - 0.5, 4.0 * math.sqrt(count * share * (1 - share)) + 2.0
    high = sample[max(math.floor(middle - spread), 0)]
    low = sample[min(math.ceil(middle + spread), count - 1)]
    return low, high


def _kth_by_partition(scores: Tensor, k: int) -> Tensor:
    if scores.device.type != "cpu":
        return torch.topk(scores, k, sorted=False).values.min()
    # NumPy's partition is vectorised and many times as fast as torch's; widening half precision is exact.
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    place = scores.numel() - k
    value = np.partition(wide.numpy(), place)[place]
    return torch.from_numpy(np.asarray(value)).to(scores.dtype)
