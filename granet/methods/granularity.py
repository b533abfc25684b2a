"""Granularity: what is pruned, dropped and grown together.

A granularity is a change of coordinates. ``coarsen`` turns what a method sees of the weights into scores and masks of
units; the method selects, allocates and counts units as if they were weights; ``refine`` turns its masks of units back
into masks of weights, which are all that the rest of granet knows. One class here is all that a granularity takes.
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
