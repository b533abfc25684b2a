"""FLOPs of a graph's convolutions and matrix products, and those of them whose weight is not zero.

Read off the graph as ONNX Runtime has it after folding constants, so that decoders of any encoding are weights again
and decoders that were not folded show. Counted as in ``granet.flops``: two operations for every weight
and every position it is applied to; normalisation, activations and the rest cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from exporters import onnx_files, runtime
from exporters.bench.two_of_four import is_two_of_four

_COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_READABLE = {
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16),
    *(TensorProto.INT8, TensorProto.UINT8),
}
_LARGEST_FOR_INFERENCE = 2_000_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one run on a batch computes; every figure is None where it is not known.

    Attributes:
        flops: all of them.
        active_flops: those whose weight is not zero.
        weights: entries of the weights that were counted.
        active: of those, not zero.
        unfolded: nodes whose result is constant and that run all the same, such as decoders that were not folded.
        two_of_four: weights with the 2:4 pattern along their inputs.
        remark: why a figure is None.
    """

    flops: float | None = None
    active_flops: float | None = None
    weights: int | None = None
    active: int | None = None
    unfolded: int | None = None
    two_of_four: int | None = None
    remark: str | None = None


def measure(path: Path) -> Work:
    """Return the work of the optimised graph at ``path``, whose sizes are all fixed."""
    model = onnx_files.read(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = _shapes(model)
    flops = active_flops = 0.0
    weights = active = fitting = 0
    not_counted = []
    for node in model.graph.node:
        if node.op_type not in _COUNTED or node.domain not in ("", "ai.onnx"):
            continue
        macs = _macs(node, shapes)
        if macs is None:
            not_counted.append(node.name or node.op_type)
            continue
        share = 1.0
        tensor = tensors.get(node.input[1])
        if tensor is not None and tensor.data_type in _READABLE:
            values = numpy_helper.to_array(tensor)
            nonzero = int(np.count_nonzero(values))
            weights, active = weights + values.size, active + nonzero
            share = nonzero / max(values.size, 1)
            fitting += values.ndim > 1 and is_two_of_four(np.moveaxis(values, _input_axis(node), -1))
        flops += 2.0 * macs
        active_flops += 2.0 * macs * share
    return Work(
        flops=None if not_counted else flops,
        active_flops=None if not_counted else active_flops,
        weights=weights,
        active=active,
        unfolded=len(runtime.unfolded(model.graph)),
        two_of_four=fitting,
        remark=f"FLOPs are not known: no shapes for {', '.join(not_counted[:3])}" if not_counted else None,
    )


def _shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of all tensors whose sizes are known."""
    graph = (shape_inference.infer_shapes(model) if model.ByteSize() < _LARGEST_FOR_INFERENCE else model).graph
    known: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            known[value.name] = tuple(size.dim_value for size in sizes)
    return known


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the multiplications of one run; None when a shape is not known."""
    try:
        first, second = shapes[node.input[0]], shapes[node.input[1]]
        if node.op_type == "ConvTranspose":  # spreads each input value by all weights of its channel
            return float(math.prod(first) * math.prod(second[1:]))
        output = shapes[node.output[0]]
        if node.op_type == "Conv":
            return float(math.prod(output) * math.prod(second[1:]))
        transposed = node.op_type == "Gemm" and _attribute(node, "transA", 0)
        return float(math.prod(output) * (first[0] if transposed else first[-1]))
    except (KeyError, IndexError):
        return None


def _input_axis(node: onnx.NodeProto) -> int:
    """Return the axis of the inputs in a node's weight."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return 1
    return -1 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else -2


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
