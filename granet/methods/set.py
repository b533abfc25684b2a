"""SET: sparse evolutionary training."""

from __future__ import annotations

from dataclasses import dataclass

from granet.methods.base import register
from granet.methods.settings import Decay, Growth, Steps, fixed
from granet.methods.swapping import SwappingFromRandom


@register("set")
@dataclass(frozen=True, kw_only=True)
class SET(SwappingFromRandom):
    """Drop the smallest weights, grow at random.

    Mocanu et al. 2018 (arXiv 1707.04780). The paper swaps once an epoch and its 0.3 does not decay; the interval is
    that of the ITOP comparison.
    """

    interval: Steps = 1500
    drop_fraction: float = 0.3
    decay: Decay = "constant"
    growth: Growth = fixed("random")
