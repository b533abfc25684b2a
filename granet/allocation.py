"""Allocation: how a network's budget of active weights is shared among its layers.

Functions take shapes, parameter name to shape (output channels, input channels, then the kernel), and a density in
(0, 1]. The ``*_densities`` functions return real numbers, the others integer budgets that add up to
``round(density * weights)`` exactly, with at least one active weight in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from granet.errors import UsageError

Shapes = Mapping[str, Sequence[int]]
Allocation = Literal["erk", "er", "uniform"]
Scope = Literal["network", "layer"]
"""Among what weights compete: all of the network, or those of their layer."""


def total_budget(shapes: Shapes, density: float) -> int:
    """Return ``round(density * weights)``, the active weights of the whole network at ``density``.

    Raises:
        UsageError: a density outside (0, 1], or one that leaves fewer active weights than there are layers.
    """
    if not 0.0 < density <= 1.0:
        raise UsageError("density out of range", got=density, expected="a number above 0 and at most 1")
    weights = sum(sizes(shapes).values())
    budget = round(density * weights)
    if budget < len(shapes):
        raise UsageError(
            "the density is too low: every layer keeps at least one active weight",
            got=f"density {density:g}, {budget} of {weights} weights for {len(shapes)} layers",
            expected=f"a density of at least {len(shapes) / weights:.3g}",
        )
    return budget


def sizes(shapes: Shapes) -> dict[str, int]:
    """Return the number of weights of each layer."""
    return {name: math.prod(shape) for name, shape in shapes.items()}


def scoped_budget(
    scope: Scope, total: int, ideal: Mapping[str, float], *, lower: Mapping[str, int], upper: Mapping[str, int]
) -> int | dict[str, int]:
    """Return a budget of ``total``: one number for the whole network, or one for each layer; see ``apportion``."""
    return total if scope == "network" else apportion(ideal, total, lower=lower, upper=upper)


def uniform(shapes: Shapes, density: float) -> dict[str, int]:
    """Return budgets with the same density in every layer.

    RigL's "uniform" also keeps the first layer dense; here that is a layer which is not masked at all
    (``dense=("conv1",)`` of the sparsifier).
    """
    total = total_budget(shapes, density)
    return apportion({name: density * size for name, size in sizes(shapes).items()}, total, upper=sizes(shapes))


def er_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Return Erdős-Rényi densities: proportional to (n_in + n_out) / (n_in * n_out), kernels left out.

    Mocanu et al. 2018 (arXiv 1707.04780), equation 3. Layers that would pass 1 are dense and the rest is solved
    again, so that the whole network has ``density``.
    """
    return _scaled_densities(shapes, density, lambda shape: sum(shape[:2]) / math.prod(shape[:2]))


def er(shapes: Shapes, density: float) -> dict[str, int]:
    """Return integer budgets at ``er_densities``."""
    return _budgets(shapes, density, er_densities)


def erk_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Return Erdős-Rényi-Kernel densities: proportional to sum(shape) / prod(shape).

    Evci et al. 2020 (arXiv 1911.11134), section 3. Layers that would pass 1 are dense and the rest is solved
    again, so that the whole network has ``density``.

    Returns:
        The density of each layer, in (0, 1].

    Raises:
        UsageError: a density outside (0, 1].

    Example:
        >>> erk_densities({"conv": (8, 4, 3, 3), "head": (10, 8)}, 0.5)["head"]
        1.0
    """
    return _scaled_densities(shapes, density, lambda shape: sum(shape) / math.prod(shape))


def erk(shapes: Shapes, density: float) -> dict[str, int]:
    """Return integer budgets at ``erk_densities``."""
    return _budgets(shapes, density, erk_densities)


ALLOCATIONS: Mapping[Allocation, Callable[[Shapes, float], dict[str, int]]] = {
    "erk": erk,
    "er": er,
    "uniform": uniform,
}


def apportion(
    ideal: Mapping[str, float],
    total: int,
    *,
    upper: Mapping[str, int],
    lower: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return integers near ``ideal`` that add up to ``total`` exactly, each within its bounds.

    Where bounds bind, the other layers share the difference in proportion to their ideals; what is left after
    rounding down goes to the largest remainders, the earlier layer winning ties.

    Args:
        ideal: real shares, at least 0.
        total: what the result adds up to.
        upper: the most each layer can have.
        lower: the least each layer must have; 1 when left out.

    Raises:
        UsageError: no such integers exist.
    """
    lower = dict.fromkeys(ideal, 1) if lower is None else lower
    least, most = sum(lower[name] for name in ideal), sum(upper[name] for name in ideal)
    if not least <= total <= most or any(lower[name] > upper[name] for name in ideal):
        raise UsageError("the budget does not fit the layers", got=total, expected=f"{least} to {most} active weights")
    # A share of nothing is a very small share, so that a bound that binds everywhere else still leaves a scale.
    least_share = 1e-12 * max(ideal.values(), default=0.0) or 1.0
    shares = _waterfill({name: max(value, least_share) for name, value in ideal.items()}, total, lower, upper)
    budgets = {name: min(max(math.floor(share), lower[name]), upper[name]) for name, share in shares.items()}
    by_remainder = sorted(budgets, key=lambda name: budgets[name] - shares[name])
    missing = total - sum(budgets.values())
    while missing:
        # One pass is enough but for the rounding errors of floats; each pass moves every layer by at most one.
        sign = 1 if missing > 0 else -1
        order = by_remainder if sign > 0 else by_remainder[::-1]
        for name in order:
            if missing and lower[name] <= budgets[name] + sign <= upper[name]:
                budgets[name] += sign
                missing -= sign
    return budgets


def _waterfill(
    ideal: Mapping[str, float], total: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, float]:
    """Return ``clamp(scale * ideal)`` at the scale where the shares add up to ``total``."""

    def shares(scale: float) -> dict[str, float]:
        return {name: min(max(scale * value, lower[name]), upper[name]) for name, value in ideal.items()}

    if math.isclose(sum(shares(1.0).values()), total, rel_tol=1e-12):
        return shares(1.0)  # kept free of the search's rounding
    low, high = 0.0, 1.0
    while sum(shares(high).values()) < total and high < 1e18:
        high *= 2.0
    for _ in range(100):  # bisection to the last bit: the sum is monotonous in the scale
        middle = (low + high) / 2.0
        low, high = (middle, high) if sum(shares(middle).values()) < total else (low, middle)
    return shares(high)


def _scaled_densities(shapes: Shapes, density: float, score: Callable[[Sequence[int]], float]) -> dict[str, float]:
    total_budget(shapes, density)
    weights = sizes(shapes)
    scores = {name: score(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        sparse = [name for name in shapes if name not in dense]
        if not sparse:
            return dict.fromkeys(shapes, 1.0)
        budget = density * sum(weights.values()) - sum(weights[name] for name in dense)
        scale = budget / sum(scores[name] * weights[name] for name in sparse)
        full = {name for name in sparse if scale * scores[name] > 1.0}
        if not full:
            return {name: 1.0 if name in dense else scale * scores[name] for name in shapes}
        dense |= full


def _budgets(shapes: Shapes, density: float, densities: Callable[[Shapes, float], dict[str, float]]) -> dict[str, int]:
    total = total_budget(shapes, density)
    weights = sizes(shapes)
    ideal = {name: share * weights[name] for name, share in densities(shapes, density).items()}
    return apportion(ideal, total, upper=weights)
