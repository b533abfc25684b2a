"""Granularity: what is pruned, dropped and grown together.

A granularity is a change of coordinates. ``coarsen`` turns what a method sees of the weights into scores and masks of
units; the method selects, allocates and counts units as if they were weights; ``refine`` turns its masks of units back
into masks of weights, which are all that the rest of granet knows.

To add a granularity, write a class here that follows ``Granularity`` and enter an instance in ``GRANULARITIES``. All
methods, recipes, ``--set method.granularity=NAME`` and the explanation of that setting take it from there, and
``granet/methods/update.py`` calls it; no other module changes. ``tests/test_granularity.py`` shows one that is tested.
Where units of different layers have different sizes, the density of weights is exact to the unit only, and ``granet
plan`` and ``granet verify`` still count weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from granet.allocation import Shapes
from granet.masks.mapping import Masks
from granet.masks.selection import Tensors
from granet.methods.snapshot import Snapshot


class Granularity(Protocol):
    """A way to group weights into units, of which each is active or inactive as a whole."""

    description: str
    """What a unit is, after its name in the explanation of the setting."""

    def units(self, shapes: Shapes) -> Shapes:
        """Return the shapes of the layers counted in units, with as many dimensions as those of the weights."""

    def coarsen(self, weights: Snapshot) -> Snapshot:
        """Return the snapshot with one score for each unit in place of weights, gradients and momenta."""

    def refine(self, units: Masks, scores: Tensors) -> Masks:
        """Return the masks of weights for masks of units.

        Args:
            units: which units are active.
            scores: for every weight, what decides within an active unit where not all of it is active.
        """


class SingleWeights:
    """Every weight is a unit of its own: the identity, without a copy."""

    description = "each by itself"

    def units(self, shapes: Shapes) -> Shapes:
        """Return ``shapes``."""
        return shapes

    def coarsen(self, weights: Snapshot) -> Snapshot:
        """Return ``weights``."""
        return weights

    def refine(self, units: Masks, scores: Tensors) -> Masks:  # noqa: ARG002  there is nothing to decide
        """Return ``units``."""
        return units


GRANULARITIES: Mapping[str, Granularity] = {"weight": SingleWeights()}
"""Granularities by the name that recipes use."""


def described_granularities() -> str:
    """Return the granularities with what their units are, as the explanation of the setting lists them."""
    return "; ".join(f"{name}, {granularity.description}" for name, granularity in GRANULARITIES.items())
