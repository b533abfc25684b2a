"""Static sparse training."""

from __future__ import annotations

from dataclasses import dataclass

from granet.methods.base import RandomStart, register


@register("static")
@dataclass(frozen=True, kw_only=True)
class Static(RandomStart):
    """A random mask that never changes."""
