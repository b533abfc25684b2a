"""Channels of tensors: their identity, which of them are coupled, and what is known of each.

A channel of a tensor is an index along one of its axes. Channels are coupled when they can only be removed together:
those that a batch norm takes and those that it gives, those of the two terms of a sum, those of a layer's output and
the rows of its weight. So each channel has a number, and numbers are coupled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Channels = NDArray[np.int64]
"""The number of each channel. Channels of the same number, or of coupled ones, can only be removed together."""
Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

KEPT = 0
"""The number of all channels that cannot be removed."""


@dataclass(eq=False)
class FeatureMap:
    """An activation whose channels lie along ``axis``.

    Attributes:
        axis: of the channels.
        channels: int64 [C], their numbers.
        constant: float64 [C], the value that all entries of a channel have for every input; NaN where there is none.
        live: bool [C], whether an output of the network depends on the channel; False until the backward pass.
    """

    axis: int
    channels: Channels
    constant: Values
    live: Flags = field(init=False)

    def __post_init__(self) -> None:
        self.constant = np.where(np.isfinite(self.constant), self.constant, np.nan)
        self.live = np.zeros(self.channels.size, np.bool_)

    @classmethod
    def unknown(cls, axis: int, size: int) -> FeatureMap:
        """Return an activation none of whose channels is constant or can be removed."""
        return cls(axis, np.full(size, KEPT, np.int64), np.full(size, np.nan))

    @property
    def size(self) -> int:
        """The number of channels."""
        return self.channels.size


class Coupling:
    """Which channels are coupled, and which axes of parameters and buffers they number."""

    def __init__(self) -> None:
        self.axes: dict[str, dict[int, Channels]] = {}
        """By parameter or buffer and axis the number of each index; axes that are not here stay whole."""
        self._count = KEPT + 1
        self._edges: list[tuple[Channels, Channels]] = []

    def couple(self, left: Channels, right: Channels) -> None:
        """Couple channels one by one."""
        if not np.array_equal(left, right):
            self._edges.append((left, right))

    def keep(self, channels: Channels) -> None:
        """Mark channels as not removable."""
        self.couple(channels, np.full_like(channels, KEPT))

    def of_axis(self, name: str, axis: int, size: int) -> Channels:
        """Return the channels along an axis of a parameter or buffer, new ones if it has none yet."""
        axes = self.axes.setdefault(name, {})
        if axis not in axes:
            axes[axis] = np.arange(self._count, self._count + size, dtype=np.int64)
            self._count += size
        return axes[axis]

    def couple_axis(self, name: str, axis: int, channels: Channels) -> None:
        """Couple an axis of a parameter or buffer to ``channels``."""
        self.couple(self.axes.setdefault(name, {}).setdefault(axis, channels), channels)

    def groups(self) -> Channels:
        """Return the group of each channel: the lowest number that it is coupled to, directly or by way of others."""
        groups = np.arange(self._count, dtype=np.int64)
        if not self._edges:
            return groups
        left, right = (np.concatenate(side) for side in zip(*self._edges, strict=True))
        while not np.array_equal(groups[left], groups[right]):
            least = np.minimum(groups[left], groups[right])
            np.minimum.at(groups, groups[left], least)
            np.minimum.at(groups, groups[right], least)
            while not np.array_equal(groups, groups[groups]):
                groups = groups[groups]
        return groups
