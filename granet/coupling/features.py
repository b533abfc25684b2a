"""What the analysis knows of a tensor on its way through a network: its channels, one by one.

A channel of a tensor is an index along one of its axes. Two facts are kept of it: the value that it has everywhere
and always, if there is one, and whether anything after it needs its value. Besides, channels belong together: those
that a batch norm takes and those that it gives, those of the two terms of a sum, those of a layer's output and the
rows of its weight. Either all of them stay or all of them go. So each channel has a slot, and slots are tied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
"""One number for each channel; channels with the same number, or with tied ones, stay or go together."""
Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

PINNED = 0
"""The slot of all channels that stay whatever happens."""


@dataclass(eq=False)
class Feature:
    """A tensor whose channels are told apart along ``axis``.

    ``slots`` int64 [C]; ``constant`` float64 [C] is the value that all entries of the channel have for every input,
    NaN where there is none; ``needed`` bool [C] is False to begin with, and filled in against the flow of the network.
    """

    axis: int
    slots: Slots
    constant: Values
    needed: Flags = field(init=False)

    def __post_init__(self) -> None:
        self.constant = np.where(np.isfinite(self.constant), self.constant, np.nan)
        self.needed = np.zeros(self.slots.size, np.bool_)

    @classmethod
    def unknown(cls, axis: int, size: int) -> Feature:
        """A tensor all of whose channels vary and stay."""
        return cls(axis, np.full(size, PINNED, np.int64), np.full(size, np.nan))

    @property
    def size(self) -> int:
        """The number of channels."""
        return self.slots.size


class Ties:
    """Which slots there are, which are tied, and which dimensions of parameters and buffers they number."""

    def __init__(self) -> None:
        self.dimensions: dict[str, dict[int, Slots]] = {}
        """Slots along the dimensions of a parameter or buffer by its name; other dimensions stay whole."""
        self._count = PINNED + 1
        self._edges: list[tuple[Slots, Slots]] = []

    def fresh(self, count: int) -> Slots:
        """So many new slots."""
        self._count += count
        return np.arange(self._count - count, self._count, dtype=np.int64)

    def tie(self, left: Slots, right: Slots) -> None:
        """Ties slots one by one."""
        if not np.array_equal(left, right):
            self._edges.append((left, right))

    def pin(self, slots: Slots) -> None:
        """Makes them stay."""
        self.tie(slots, np.full_like(slots, PINNED))

    def along(self, name: str, dimension: int, size: int) -> Slots:
        """The slots along a dimension of a parameter or buffer, new ones if nothing is known of it yet."""
        slots = self.dimensions.setdefault(name, {}).get(dimension)
        return self.dimensions[name].setdefault(dimension, self.fresh(size)) if slots is None else slots

    def bind(self, name: str, dimension: int, slots: Slots) -> None:
        """Ties a dimension of a parameter or buffer to ``slots``."""
        self.tie(self.dimensions.setdefault(name, {}).setdefault(dimension, slots), slots)

    def groups(self) -> Slots:
        """The group of each slot: the lowest slot that it is tied to, at any number of removes."""
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
