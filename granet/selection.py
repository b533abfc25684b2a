"""Exact selection: the k best of many scores.

Sorting is never needed. The k-th largest score is found by partition, everything above it is taken, and of those
equal to it the ones with the lowest flat index, so that exactly k are chosen and the choice is a function of the
scores alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from granet.errors import UsageError


def top_k(scores: Tensor, k: int, eligible: Tensor | None = None) -> Tensor:
    """Marks the ``k`` largest scores among the eligible ones.

    Args:
        scores: floating point, any shape. Infinities are ordinary values; NaN is refused.
        k: how many to mark, from 0 to the number of eligible positions.
        eligible: bool tensor of the same shape; None means all.

    Returns:
        A bool tensor shaped like ``scores`` with exactly ``k`` True, all of them eligible. Among equal scores the
        lowest flat index wins.

    Raises:
        UsageError: ``k`` out of range, or a NaN where it would matter.
    """
    flat = scores.detach().reshape(-1)
    if eligible is None:
        return _mark(flat, k).view(scores.shape)
    positions = eligible.reshape(-1).nonzero().view(-1)
    chosen = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    chosen[positions] = _mark(flat[positions], k)
    return chosen.view(scores.shape)


def _mark(scores: Tensor, k: int) -> Tensor:
    """``top_k`` of a flat tensor without ineligible positions."""
    count = scores.numel()
    if not 0 <= k <= count:
        raise UsageError("cannot select that many", got=k, expected=f"0 to {count}, the number of eligible positions")
    if k in (0, count):
        return torch.full((count,), k > 0, dtype=torch.bool, device=scores.device)
    threshold = kth_largest(scores, k)
    chosen = scores > threshold
    ties = scores == threshold
    missing = k - int(chosen.count_nonzero())
    tied = int(ties.count_nonzero())
    if not 0 <= missing <= tied:  # NaN compares false with everything, so the counts cannot add up
        raise UsageError("scores contain NaN", remedy="a weight or a gradient is not finite; check the loss")
    if missing == tied:
        return chosen.logical_or_(ties)
    chosen[ties.nonzero().view(-1)[:missing]] = True
    return chosen


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The ``k``-th largest of a flat, non-empty tensor, 1 <= k <= size, as a 0-d tensor on its device.

    On the CPU NumPy's vectorised partition is several times as fast as ``torch.kthvalue``; half-precision
    scores are widened first, which is exact.
    """
    if scores.device.type != "cpu":
        return torch.topk(scores, k, sorted=False).values.min()
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    place = scores.numel() - k
    value = np.partition(wide.numpy(), place)[place]
    return torch.from_numpy(np.asarray(value)).to(scores.dtype)
