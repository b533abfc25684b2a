"""RigL: rigging the lottery."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from granet.allocation import Shapes
from granet.errors import UsageError
from granet.methods.base import register
from granet.methods.settings import Steps, setting
from granet.methods.swapping import SwappingFromRandom


@register("rigl")
@dataclass(frozen=True, kw_only=True)
class RigL(SwappingFromRandom):
    """Drop the smallest weights, grow where the gradient is largest, instead of the optimizer step.

    Evci et al. 2020 (arXiv 1911.11134), as published: updates stop at ``stop``, the fraction decays to 0 there, and
    an update replaces that step's optimizer step. Where the fraction is 0 nothing can be swapped, and the optimizer
    step is done; the published code leaves it out there too.
    """

    interval: Steps = 100
    stop: Steps | None = setting(
        "When swapping ends; three quarters of the training when left out", at_least=1, default=None
    )
    drop_fraction: float = 0.3

    replaces_step: ClassVar[bool] = True
    default_final_drop_fraction: ClassVar[float] = 0.0
    rounding: ClassVar[Callable[[float], int]] = math.floor

    def last_swap(self, total_steps: int) -> int:
        """Return the last step that may swap: the last one of the decay, unless nothing is left to swap there."""
        end = self.horizon(total_steps)
        return end if self.fraction(end, total_steps) > 0 else end - 1

    def horizon(self, total_steps: int) -> int:
        """Return the number of steps over which the drop fraction decays: up to ``stop``."""
        return max(self.stop if self.stop is not None else round(0.75 * total_steps), 1)

    def check(self, shapes: Shapes, total_steps: int) -> None:
        """Raise UsageError for updates that would end past the end of training, or never come."""
        super().check(shapes, total_steps)
        if self.stop is not None and self.stop > total_steps:
            raise UsageError(
                "updates stop past the end of training",
                where="stop",
                got=f"step {self.stop} of {total_steps}",
                remedy="stop them earlier or train longer",
            )
