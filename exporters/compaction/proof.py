"""Proof that two networks compute the same, by running both."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from granet.errors import ModelError
from granet.files.user_code import described

TOLERANCE = 1e-5
"""The largest difference of an output, as a share of the largest absolute value in it."""

Inputs = tuple[Tensor, ...]


def trials(example: Inputs) -> list[Inputs]:
    """Return the example, and tensors of the same shapes with normal noise in place of floats."""
    source = torch.Generator().manual_seed(0)
    noise = tuple(
        torch.randn(tensor.shape, generator=source).to(tensor) if tensor.is_floating_point() else tensor
        for tensor in example
    )
    return [example, noise]


@torch.no_grad()
def outputs(model: nn.Module, inputs: Sequence[Inputs]) -> list[list[Tensor]]:
    """Return for each of the inputs all tensors that the network returns, as float64."""
    return [[_real(leaf) for leaf in tree_leaves(model(*given)) if isinstance(leaf, Tensor)] for given in inputs]


def _real(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()


def largest_difference(given: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the largest difference of two lists of arrays, and the largest absolute value in ``expected``.

    The difference is infinite, and the other 1, where shapes differ or anything is not finite.
    """
    if [array.shape for array in given] != [array.shape for array in expected]:
        return math.inf, 1.0
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(given, expected, strict=True)]
    difference = float(np.max([np.abs(a - b).max(initial=0.0) for a, b in pairs]))
    if not math.isfinite(difference):
        return math.inf, 1.0
    return difference, float(np.max([np.abs(b).max(initial=0.0) for _, b in pairs]))


def difference(expected: Sequence[Sequence[Tensor]], got: Sequence[Sequence[Tensor]]) -> float:
    """Return the largest difference of any entry, as a share of the largest absolute value in its expected tensor.

    Infinite where shapes or numbers of outputs differ or anything is not finite.
    """
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        if len(one) != len(other):
            return math.inf
        for left, right in zip(one, other, strict=True):
            found, magnitude = largest_difference([right.numpy(force=True)], [left.numpy(force=True)])
            worst = max(worst, found / (magnitude or 1.0))
    return worst


def prove(original: nn.Module, smaller: nn.Module, expected: list[list[Tensor]], inputs: Sequence[Inputs]) -> float:
    """Return the :func:`difference` of the smaller network, which is in evaluation mode, from the original.

    A difference above the tolerance may be rounding: sums of fewer terms are added up in another order. Then both are
    run again in double precision, and that decides. Neither is changed. ``expected`` are the outputs of the original
    for ``inputs`` in evaluation mode.

    Raises:
        ModelError: they do not compute the same.
    """
    try:
        found = difference(expected, outputs(smaller, inputs))
    except Exception as error:
        raise ModelError(
            "the network does not run with fewer channels",
            where=type(original).__name__,
            got=described(error),
            remedy="its forward pass may depend on sizes that torch.export does not show; do without compaction",
        ) from error
    if found > TOLERANCE:
        # Some networks cannot run in double precision; for those the difference stands.
        with contextlib.suppress(RuntimeError):
            twice = [tuple(t.double() if t.is_floating_point() else t for t in given) for given in inputs]
            exact = outputs(copy.deepcopy(original).eval().double(), twice)
            found = difference(exact, outputs(copy.deepcopy(smaller).double(), twice))
    if found > TOLERANCE:
        raise ModelError(
            "the network with fewer channels does not compute the same, and was discarded",
            where=type(original).__name__,
            got=f"a difference of {found:.1e} of the largest output",
            expected=f"at most {TOLERANCE:.0e}",
            remedy="do without compaction",
        )
    return found
