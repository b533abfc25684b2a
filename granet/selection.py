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


def top_k(scores: Tensor, k: int, eligible: Tensor | None = None) -> Tensor:
    """Marks the ``k`` largest scores among the eligible ones.

    Args:
        scores: floating point, any shape. Infinities are ordinary values; NaN is refused.
        k: how many to mark, from 0 to the number of eligible positions.
        eligible: bool tensor of the same shape; None means all.

    Returns:
        A new bool tensor shaped like ``scores`` with exactly ``k`` True, all of them eligible. Among equal scores
        the lowest flat index wins.

    Raises:
        UsageError: ``k`` out of range, or NaN among the eligible.
    """
    flat = scores.detach().reshape(-1)
    if eligible is None:
        return _mark(flat, k, None, -torch.inf).view(scores.shape)
    allowed = eligible.reshape(-1)
    return _mark(flat.masked_fill(~allowed, -torch.inf), k, allowed, -torch.inf).view(scores.shape)


def top_magnitudes(values: Tensor, k: int, eligible: Tensor | None = None, *, where: str | None = None) -> Tensor:
    """``top_k`` of ``values.abs()``, faster: what is not eligible can be multiplied by zero.

    ``where`` is what errors call the tensor.
    """
    scores = values.detach().abs().reshape(-1)
    if eligible is None:
        return _mark(scores, k, None, 0.0, where).view(values.shape)
    return top_scores_(scores, k, eligible.reshape(-1), where).view(values.shape)


def top_scores_(scores: Tensor, k: int, eligible: Tensor, where: str | None = None) -> Tensor:
    """``top_k`` of flat scores that are not negative; overwrites those that are not eligible.

    Raises:
        UsageError: as ``top_k``.
    """
    scores.mul_(eligible.view(torch.int8))  # several times as fast as masked_fill_
    return _mark(scores, k, eligible, 0.0, where)


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The ``k``-th largest of a flat tensor, 1 <= k <= size, as a 0-d tensor on its device.

    There must be no NaN.

    A random sample brackets the answer (Floyd and Rivest 1975), two comparisons with the whole find what lies
    between, and only that little is partitioned. The result is exact whatever the sample. Scores that occur many
    times, zeros above all, cost nothing extra: they can only be an end of the bracket, which is left out.
    """
    size = scores.numel()
    if size <= 8 * _SAMPLE:
        return _kth_by_partition(scores, k)
    # Keyed by the size alone, for the same sample and so the same speed every time.
    places = torch.randint(size, (_SAMPLE,), generator=generator(0, "sample", size)).to(scores.device)
    sample = scores[places].sort(descending=True).values
    middle, spread = (k - 0.5) / size * _SAMPLE, 4.0 * math.sqrt(_SAMPLE * (k / size) * (1 - k / size)) + 2.0
    high = sample[max(math.floor(middle - spread), 0)]
    low = sample[min(math.ceil(middle + spread), _SAMPLE - 1)]
    below_high, above_low = scores < high, scores > low
    at_least_high = size - int(below_high.count_nonzero())
    if at_least_high < k <= int(above_low.count_nonzero()):
        return _kth_by_partition(scores[below_high & above_low], k - at_least_high)
    for end in (high, low):
        if int((scores > end).count_nonzero()) < k <= int((scores >= end).count_nonzero()):
            return end
    return _kth_by_partition(scores, k)  # an unlucky sample


_SAMPLE = 4096


def _kth_by_partition(scores: Tensor, k: int) -> Tensor:
    if scores.device.type != "cpu":
        return torch.topk(scores, k, sorted=False).values.min()
    # NumPy's partition is vectorised and many times as fast as torch's; widening half precision is exact.
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    place = scores.numel() - k
    value = np.partition(wide.numpy(), place)[place]
    return torch.from_numpy(np.asarray(value)).to(scores.dtype)


def _mark(scores: Tensor, k: int, eligible: Tensor | None, floor: float, where: str | None = None) -> Tensor:
    """Marks the ``k`` largest of flat ``scores``; no score is below ``floor``, and what is not eligible is at it."""
    if scores.numel() and bool(scores.amax().isnan()):  # of all reductions the cheapest that NaN gets through
        if eligible is None or bool((scores.isnan() & eligible).any()):
            raise UsageError(
                "scores contain NaN", where=where, remedy="a weight or a gradient is not a number; look at the loss"
            )
        scores = scores.masked_fill(~eligible, floor)  # infinity times zero
    if k == 0:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if not 0 < k <= scores.numel():
        raise _out_of_range(k, scores.numel() if eligible is None else int(eligible.count_nonzero()), where)
    threshold = kth_largest(scores, k)
    chosen = scores >= threshold
    if eligible is not None and float(threshold) == floor:
        chosen &= eligible
    surplus = int(chosen.count_nonzero()) - k
    if surplus < 0:
        raise _out_of_range(k, k + surplus, where)
    if surplus > 0:
        ties = (chosen & (scores == threshold)).nonzero().view(-1)
        chosen[ties[-surplus:]] = False
    return chosen


def _out_of_range(k: int, available: int, where: str | None) -> UsageError:
    return UsageError(
        "cannot select that many", where=where, got=k, expected=f"0 to {available}, the number of eligible positions"
    )
