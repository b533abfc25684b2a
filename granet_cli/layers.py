"""Which layers a table shows, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

Orders = Mapping[str, Callable[[Any], Any] | None]

_COMMON: Orders = {
    "order": None,
    "name": lambda layer: layer.name,
    "parameters": lambda layer: -layer.parameters,
    "active": lambda layer: -layer.active,
    "density": lambda layer: -layer.density,
}

ORDERS: Orders = {**_COMMON, "flops": lambda layer: -(layer.flops_share or 0.0)}
"""The sort keys of a checkpoint by what ``--sort`` calls them; numbers from the largest down."""

ONNX_ORDERS: Orders = {**_COMMON, "bytes": lambda layer: -layer.bytes}
"""Those of an ONNX file."""


class LayerRow(Protocol):
    """What a report says of a layer."""

    @property
    def name(self) -> str:
        """The name of its weight."""


_Layer = TypeVar("_Layer", bound=LayerRow)


def select(layers: Sequence[_Layer], *, pattern: str | None, order: str, orders: Orders = ORDERS) -> list[_Layer]:
    """The layers that match a pattern, sorted.

    Args:
        layers: all of them, in the order of the network, which breaks ties.
        pattern: matched against the name of the weight and that of its layer, like the ``dense`` patterns of recipes.
        order: a key of ``orders``.
        orders: the sort keys that these layers have.

    Raises:
        UnknownNameError: no such order, or a pattern that matches nothing.
    """
    from granet.errors import UnknownNameError

    if order not in orders:
        raise UnknownNameError("column", order, orders, where="--sort")
    chosen = [layer for layer in layers if pattern is None or _matches(layer.name, pattern)]
    if pattern is not None and not chosen:
        raise UnknownNameError("layer", pattern, [stem(layer.name) for layer in layers], where="--layers")
    key = orders[order]
    return chosen if key is None else sorted(chosen, key=key)


def stem(name: str) -> str:
    """The name of the layer that a weight belongs to."""
    return name.removesuffix(".weight") or name


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(stem(name), pattern)
