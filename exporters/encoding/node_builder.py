"""Build the nodes and initializers that replace one initializer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
from onnx import helper, numpy_helper

from exporters.encoding import coo, layouts
from exporters.encoding.decoder_functions import DOMAIN, LAYOUTS, SUFFIXES, Format
from exporters.encoding.values import Array, StoredValues

PLAIN, COO = "plain", "coo"
"""Choices besides the layouts: the initializer as it is, and the standard's sparse one."""


def decoder(layout: str, format: Format) -> str | None:
    """Return the function that weights of a format need in a layout, ``PLAIN`` or ``COO``; None when they need none."""
    if layout == PLAIN or (layout == COO and format.stored == format.weight):
        return None
    return ("Dense" if layout == COO else layout) + SUFFIXES[format]


def build(layout: str, weight: StoredValues, taken: Collection[str]) -> onnx.GraphProto:
    """Return a graph with what stores a weight in a layout, ``PLAIN`` or ``COO``.

    Its size in bytes is what the weight takes in a file.

    Args:
        layout: one of ``LAYOUTS``, ``PLAIN`` or ``COO``.
        weight: what to store.
        taken: names that new values may not have.
    """
    if layout == PLAIN:
        return onnx.GraphProto(initializer=[weight.tensor])
    built = onnx.GraphProto()
    name, function, values = weight.tensor.name, decoder(layout, weight.format), weight.values
    if function is None:
        built.sparse_initializer.append(coo.sparse(name, values))
        return built
    inputs: list[str] = []

    def add(role: str, array: Array, *, sparse: bool = False) -> None:
        free = f"{name}/{role}"
        while free in taken:
            free += "_"
        inputs.append(free)
        if sparse:
            built.sparse_initializer.append(coo.sparse(free, array))
        else:
            built.initializer.append(numpy_helper.from_array(array, free))

    attributes: dict[str, Any] = {}
    if layout == COO or (positions := LAYOUTS[layout].positions) is None:
        add("values", values, sparse=layout == COO)
    else:
        packed = layouts.pack(layout, values.reshape(-1))
        add(positions, packed.positions)
        add("values", packed.values)
        known = {"shape": list(values.shape), "size": [values.size], "count": [packed.entries]}
        attributes = {key: known[key] for key in LAYOUTS[layout].attributes}
    if weight.scales is not None:
        add("scales", weight.scales)
    built.node.append(helper.make_node(function, inputs, [name], domain=DOMAIN, **attributes))
    return built
