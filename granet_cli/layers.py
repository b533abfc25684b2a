"""Which layers a table shows, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

SortKeys = Mapping[str, Callable[[Any], Any] | None]
"""Sort keys of rows by what ``--sort`` calls them; None keeps the order."""

_COMMON: SortKeys = {
    "order": None,
    "name": lambda layer: layer.name,
    "parameters": lambda layer: -layer.parameters,
    "active": lambda layer: -layer.active,
    "density": lambda layer: -layer.density,
}

ORDERS: SortKeys = {**_COMMON, "flops": lambda layer: -(layer.flops_share or 0.0)}
"""Those of the layers of a checkpoint; numbers from the largest down."""

ONNX_ORDERS: SortKeys = {**_COMMON, "bytes": lambda layer: -layer.bytes}
"""Those of the weights of an ONNX file."""

_Row = TypeVar("_Row")


class LayerRow(Protocol):
    """A report on one layer."""

    @property
    def name(self) -> str:
        """The name of its weight."""


_Layer = TypeVar("_Layer", bound=LayerRow)


def arrange(rows: Iterable[_Row], order: str, keys: SortKeys) -> tuple[_Row, ...]:
    """Sort ``rows`` by a key of ``keys``; rows that are equal in it keep their order.

    Raises:
        UnknownNameError: there is no such key.
    """
    from granet.errors import UnknownNameError

    if order not in keys:
        raise UnknownNameError("column", order, keys, where="--sort")
    key = keys[order]
    return tuple(rows if key is None else sorted(rows, key=key))


def select(layers: Sequence[_Layer], *, pattern: str | None, order: str, keys: SortKeys = ORDERS) -> tuple[_Layer, ...]:
    """Return the layers that match a pattern, sorted.

    Args:
        layers: all of them, in the order of the network, which breaks ties.
        pattern: matched against the name of the weight and that of its layer, like the ``dense`` patterns of recipes.
        order: a key of ``keys``.
        keys: the sort keys that these layers have.

    Raises:
        UnknownNameError: there is no such order, or the pattern matches nothing.
    """
    from granet.errors import UnknownNameError

    chosen = [layer for layer in layers if pattern is None or _matches(layer.name, pattern)]
    ordered = arrange(chosen, order, keys)
    if pattern is not None and not chosen:
        raise UnknownNameError("layer", pattern, [stem(layer.name) for layer in layers], where="--layers")
    return ordered


def total_title(shown: Sequence[object], layers: Sequence[object]) -> str:
    """Return the heading of the last row of a table of layers, some of which may be left out."""
    return "total" if len(shown) == len(layers) else f"{len(shown)} of {len(layers)} layers"


def stem(name: str) -> str:
    """Return the name of the layer that a weight belongs to."""
    return name.removesuffix(".weight") or name


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(stem(name), pattern)
