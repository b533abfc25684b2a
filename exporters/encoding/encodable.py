"""Find the initializers that a decoder can replace, and the output channels of weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx
from onnx import TensorProto

from exporters.graphs import graphs
from granet.errors import ModelError
from granet.layers.axes import WeightAxes

LARGEST = 2**28
"""Weights that a tensor may have. ONNX Runtime folds constants of up to 1 GiB, and decoders count weights in int32."""


def obstacles(graph: onnx.GraphProto, scope: Collection[str]) -> dict[str, str | None]:
    """Return for each initializer in ``scope``, in the order of the graph, why it cannot be encoded; None if it can.

    A decoder before all other nodes serves every reader as an initializer does, in subgraphs too.

    Raises:
        ModelError: a name in ``scope`` that no initializer has.
    """
    present = {tensor.name for tensor in graph.initializer}
    for name in scope:
        if name not in present:
            raise ModelError("there is no initializer of that name", where=name)
    reasons = {value.name: "it is an output of the graph" for value in graph.output}
    reasons |= {value.name: "it is an input of the graph, which callers may replace" for value in graph.input}
    wanted = set(scope)
    return {
        tensor.name: reasons.get(tensor.name) or _obstacle(tensor)
        for tensor in graph.initializer
        if tensor.name in wanted
    }


def channel_axes(graph: onnx.GraphProto) -> Mapping[str, int]:
    """Return the axis of the output channels of weights that layers read directly, where that is not 0."""
    axes: dict[str, int] = {}
    for inner in graphs(graph):
        for node in inner.node:
            weight = node.input[1] if len(node.input) > 1 else ""
            if node.op_type == "MatMul":
                axes[weight] = -1
            elif node.op_type in ("ConvTranspose", "Gemm"):
                transposed = not any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
                axes[weight] = WeightAxes(transposed=transposed).outputs
    return axes


def _obstacle(tensor: TensorProto) -> str | None:
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return f"it is of type {TensorProto.DataType.Name(tensor.data_type)}"
    if tensor.data_location == TensorProto.EXTERNAL:
        return "its data are in another file, which was not read"
    size = math.prod(tensor.dims)
    if not tensor.dims or not size:
        return "it is a scalar" if size else "it is empty"
    return "it is too large for ONNX Runtime to decode in advance" if size > LARGEST else None
