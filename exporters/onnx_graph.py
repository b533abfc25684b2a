"""From a network to its ONNX graph, and to where the network's weights are in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx_ir as ir
from torch import Tensor, nn

from exporters import graph_cleanup, tracing, weight_matching
from exporters.tracing import Example
from exporters.weight_matching import GraphWeight


class NetworkGraph(NamedTuple):
    """A network as an ONNX graph.

    Attributes:
        model: the graph, with batch norms folded.
        weights: where the network's weights are in it.
        unused: parameters that have no part in what the network computes in evaluation mode.
        replaced: masked weights that the graph has not, but what their layers compute, which see no input.
    """

    model: ir.Model
    weights: tuple[GraphWeight, ...]
    unused: frozenset[str]
    replaced: tuple[str, ...]


def of(
    network: nn.Module, inputs: Example, masks: Mapping[str, Tensor], *, where: str, opset: int | None = None
) -> NetworkGraph:
    """Trace a network in evaluation mode and find its weights in the graph.

    Raises:
        ModelError, UsageError: see :func:`exporters.tracing.trace` and :func:`exporters.weight_matching.match`.
    """
    traced = tracing.trace(network, inputs, where=where, opset=opset)
    graph_cleanup.fold_norms_(traced.model)
    weights = weight_matching.match(traced.model.graph, network, masks, unused=traced.unused, constant=traced.constant)
    found = {weight.name for weight in weights}
    replaced = tuple(name for name in masks if name in traced.constant and name not in found)
    return NetworkGraph(traced.model, weights, traced.unused, replaced)
