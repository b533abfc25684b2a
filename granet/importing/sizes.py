"""Infer what a network must be built for from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from granet import models
from granet.errors import GranetError, UsageError

Size = Literal["in_channels", "classes"]

_PROBES: Mapping[Size, tuple[int, int]] = {"in_channels": (1, 3), "classes": (2, 3)}
_WORDS: Mapping[Size, str] = {"in_channels": "input channels", "classes": "classes"}


@dataclass(frozen=True, kw_only=True)
class SizeDependence:
    """How a parameter's shape depends on a size: in one dimension, ``length`` plus ``step`` for each unit above low."""

    dimension: int
    dimensions: int
    length: int
    step: int


def placeholder_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Complete the sizes with placeholders that any network can be outlined with."""
    return {size: high for size, (_, high) in _PROBES.items()} | dict(sizes)


def infer_sizes(model: str, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes given, and the others as inferred from the tensors.

    A network is outlined for two values of a size. Where the shape of a parameter depends on it, the shape in the file
    gives the value: the rows of the last layer give the classes, those of the first its channels. ``image_size``,
    which no shape tells for sure, has to be given. A size whose tensor is missing or of an impossible shape is some
    value: nothing can fit then.

    Raises:
        UsageError: a size that no parameter of this network depends on.
    """
    result = dict(sizes)
    for size in _PROBES:
        if size not in sizes:
            result[size] = _infer(model, size, placeholder_sizes(result), tensors)
    return result


def dependent_parameters(
    model: str, sizes: Mapping[str, int], size: Size, low: int, high: int
) -> dict[str, SizeDependence]:
    """Return the parameters whose shape depends on ``size``, which is varied from ``low`` to ``high``, by name.

    Raises:
        GranetError: the network cannot be built for them.
    """
    below, above = (_shapes(model, {**sizes, size: value}) for value in (low, high))
    found = {}
    for name, shape in below.items():
        pairs = zip(shape, above.get(name, ()), strict=False)
        different = [dimension for dimension, (one, other) in enumerate(pairs) if one != other]
        if different:
            dimension = different[0]
            length = shape[dimension]
            step = (above[name][dimension] - length) // (high - low)
            found[name] = SizeDependence(dimension=dimension, dimensions=len(shape), length=length, step=step)
    return found


def _infer(model: str, size: Size, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]) -> int:
    low, high = _PROBES[size]
    reason, found = None, {}
    try:
        found = dependent_parameters(model, sizes, size, low, high)
    except GranetError as error:
        reason = error
    if not found:
        raise UsageError(
            f"the number of {_WORDS[size]} cannot be told from the weights",
            where=model,
            got=reason,
            remedy=f"add --{size.replace('_', '-')}",
        ) from reason
    name, parameter = next(iter(found.items()))
    if name not in tensors or tensors[name].dim() != parameter.dimensions:
        return high
    value = low + (tensors[name].shape[parameter.dimension] - parameter.length) // (parameter.step or 1)
    return value if value >= 1 else high


def _shapes(model: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    network = models.outline(model, **sizes)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
