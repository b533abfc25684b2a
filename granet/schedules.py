"""Schedules: pure functions of the number of optimizer steps done.

Before its first step a schedule has its initial value, after its last one its final value.
"""

from __future__ import annotations

import math

from granet.errors import UsageError


def cubic_density(step: float, start: float, end: float, initial: float, final: float) -> float:
    """Return the density of gradual pruning at ``step``, falling fast at first and slowly at the end.

        d(t) = final + (initial - final) * (1 - (t - start) / (end - start)) ** 3

    Exactly ``initial`` up to and including ``start``, exactly ``final`` from ``end`` on; with ``start == end`` the
    whole change happens at ``end``.

    Zhu and Gupta 2017 (arXiv 1710.01878), equation 1, written for densities.

    Raises:
        UsageError: ``end`` before ``start``.
    """
    if end < start:
        raise UsageError("a schedule that ends before it starts", got=f"{start} to {end}")
    if step >= end:
        return final
    if step <= start:
        return initial
    return final + (initial - final) * (1.0 - (step - start) / (end - start)) ** 3


def cosine(step: float, total: float, initial: float, final: float = 0.0) -> float:
    """Return half a cosine from ``initial`` at step 0 to ``final`` at ``total`` and after.

        final + (initial - final) * (1 + cos(pi * step / total)) / 2

    With ``final=0`` the decay of RigL (arXiv 1911.11134, section 3); Dettmers and Zettlemoyer 2019 before.
    """
    progress = _progress(step, total)
    if progress in (0.0, 1.0):  # the formula is off by a rounding error there
        return final if progress else initial
    return final + (initial - final) * (1.0 + math.cos(math.pi * progress)) / 2.0


def linear(step: float, total: float, initial: float, final: float = 0.0) -> float:
    """Return a straight line from ``initial`` at step 0 to ``final`` at ``total`` and after."""
    progress = _progress(step, total)
    return final if progress == 1.0 else initial + (final - initial) * progress


def constant(step: float, total: float, initial: float) -> float:
    """Return ``initial`` at every step."""
    _progress(step, total)
    return initial


def _progress(step: float, total: float) -> float:
    if total <= 0:
        raise UsageError("a schedule over no steps", got=total, expected="a total above 0")
    return min(max(step / total, 0.0), 1.0)
