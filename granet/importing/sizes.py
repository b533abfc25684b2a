"""What a network must be built for, read off the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from granet import models
from granet.errors import GranetError, UsageError

Size = Literal["in_channels", "classes"]

_PROBES: Mapping[Size, tuple[int, int]] = {"in_channels": (1, 3), "classes": (2, 3)}
_WORDS: Mapping[Size, tuple[str, str]] = {
    "in_channels": ("input channels", "--in-channels"),
    "classes": ("classes", "--classes"),
}


def probe(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes given, and for the others some that any network can be outlined with."""
    return {size: high for size, (_, high) in _PROBES.items()} | dict(sizes)


def complete(model: str, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes given, and the others as the tensors tell them.

    A network is outlined for two values of a size. Where the shape of a parameter follows it, the shape in the file
    gives the value: the rows of the last layer give the classes, those of the first its channels.

    Args:
        model: the name of the network.
        sizes: ``image_size``, which no shape tells for sure, and what is known of ``in_channels`` and ``classes``.
        tensors: by the names of the network.

    Returns:
        All three. A size whose tensor is missing or of an impossible shape is some value: nothing can fit then.

    Raises:
        UsageError: a size that no parameter of this network follows.
    """
    result = dict(sizes)
    for size in _PROBES:
        if size not in sizes:
            result[size] = _told(model, size, probe(result), tensors)
    return result


def _told(model: str, size: Size, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]) -> int:
    low, high = _PROBES[size]
    words, option = _WORDS[size]
    try:
        below, above = (_shapes(model, {**sizes, size: value}) for value in (low, high))
    except GranetError as error:
        raise UsageError(
            f"the number of {words} cannot be told from the weights", where=model, got=error, remedy=f"add {option}"
        ) from error
    telling = [
        (name, dimension)
        for name in below
        for dimension, (a, b) in enumerate(zip(below[name], above.get(name, ()), strict=False))
        if a != b
    ]
    if not telling:
        raise UsageError(f"the number of {words} cannot be told from the weights", where=model, remedy=f"add {option}")
    name, dimension = telling[0]
    if name not in tensors or tensors[name].dim() != len(below[name]):
        return high
    step = (above[name][dimension] - below[name][dimension]) // (high - low)
    value = low + (tensors[name].shape[dimension] - below[name][dimension]) // (step or 1)
    return value if value >= 1 else high


def _shapes(model: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    network = models.outline(model, **sizes)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
