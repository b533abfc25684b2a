"""Which initializers a decoder can stand in for, and what their axes mean to the layers that read them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx
from onnx import TensorProto

from exporters.encoding.graphs import graphs
from granet.errors import ModelError

LARGEST = 2**28
"""Weights that a tensor may have. ONNX Runtime folds constants of up to 1 GiB, and decoders count weights in int32."""


def obstacles(graph: onnx.GraphProto, scope: Collection[str]) -> dict[str, str | None]:
    """For each initializer in ``scope``, in the order of the graph, why it has to stay as it is; None if it has not.

    A node before all others is as good as an initializer to whoever reads it, subgraphs included.

    Raises:
        ModelError: a name in ``scope`` that no initializer has.
    """
    present = {tensor.name for tensor in graph.initializer}
    for name in scope:
        if name not in present:
            raise ModelError("there is no initializer of that name", where=name)
    inputs, outputs = ({value.name for value in side} for side in (graph.input, graph.output))
    wanted, told = set(scope), {}
    for tensor in graph.initializer:
        if tensor.name in wanted:
            told[tensor.name] = (
                "it is an input of the graph, which callers may replace"
                if tensor.name in inputs
                else "it is an output of the graph"
                if tensor.name in outputs
                else _obstacle(tensor)
            )
    return told


def channel_axes(graph: onnx.GraphProto) -> Mapping[str, int]:
    """The axis of the output channels of weights that layers read directly, where that is not 0."""
    axes: dict[str, int] = {}
    for inner in graphs(graph):
        for node in inner.node:
            weight = node.input[1] if len(node.input) > 1 else ""
            if node.op_type == "ConvTranspose":
                axes[weight] = 1
            elif node.op_type == "MatMul":
                axes[weight] = -1
            elif node.op_type == "Gemm" and not any(x.name == "transB" and x.i for x in node.attribute):
                axes[weight] = 1
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
