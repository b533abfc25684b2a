"""Predicted time of layers with the sparse kernels and with dense ones, to decide which layers each should compute.

Times are in units of one multiply-add of a dense kernel at its usual speed. A sparse layer multiplies by each weight
that is not zero, and moves its inputs and outputs through the caches:

    sparse = FACTOR * nonzero * pixels + TRAFFIC * (inputs + outputs)
    dense  = weights * pixels

Fitted by hand to a prototype's times of single layers with AVX-512, where the gain is smallest; the densities at which
these kernels begin to gain have not been measured yet.
"""

from __future__ import annotations

FACTOR = 1.6
"""How much longer one multiply-add takes by a list of weights than in a dense kernel."""

TRAFFIC = 38.0
"""Multiply-adds of a dense kernel in the time that one element is read or written."""

BORDER = 30.0
"""Multiply-adds in the time that one element changes between the dense layout and that of the sparse kernels."""


def dense_cost(weights: int, pixels: int) -> float:
    """Return the predicted time of a dense layer for one image: ``weights`` applied at each of ``pixels``."""
    return float(weights * pixels)


def sparse_cost(nonzero: int, pixels: int, inputs: int, outputs: int) -> float:
    """Return the predicted time of a sparse layer for one image that reads and writes so many elements."""
    return FACTOR * nonzero * pixels + TRAFFIC * (inputs + outputs)


def border_cost(elements: int) -> float:
    """Return the predicted time in which elements of one image change their layout."""
    return BORDER * elements
