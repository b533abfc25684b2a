"""RigL-ITOP: in-time over-parameterization by rare, large swaps."""

from __future__ import annotations

from dataclasses import dataclass

from granet.methods.base import register
from granet.methods.settings import Growth, Steps, setting
from granet.methods.swapping import SwappingFromRandom


@register("rigl-itop")
@dataclass(frozen=True, kw_only=True)
class RigLITOP(SwappingFromRandom):
    """RigL with rare, large swaps that go on to the end, so that more of the network is explored in time.

    Liu et al. 2021 (arXiv 2102.02887); "DST" in the GraNet authors' code.
    """

    interval: Steps = 4000
    growth: Growth = setting("What decides where weights grow: gradient, momentum or random", default="gradient")
