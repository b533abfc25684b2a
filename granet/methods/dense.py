"""Dense training."""

from __future__ import annotations

from dataclasses import dataclass

from granet.methods.base import Method, register
from granet.methods.settings import fixed


@register("dense")
@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """No mask at all: the control that sparse runs are compared with."""

    granularity: str = fixed("weight")
