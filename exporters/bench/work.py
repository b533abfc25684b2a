"""What a graph computes: FLOPs of its convolutions and matrix products, and those of them whose weight is not zero.

Read off the graph as ONNX Runtime has it after folding constants, so that decoders of any encoding are weights again
and what is left of them shows. Counted as in ``granet.flops``: two operations for every weight and every position it is
applied to; normalisation, activations and the rest cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from exporters import onnx_files, runtime

_COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LARGEST = 2_000_000_000


@dataclass(frozen=True)
class Work:
    """What one run on a batch costs.

    Attributes:
        flops: all of them.
        active_flops: those whose weight is not zero.
        weights: entries of the weights that were counted.
        active: of those, not zero.
        nodes: of the optimised graph.
        unfolded: nodes whose result is constant and that run all the same, such as decoders that were not folded.
        two_of_four: weights in which every four inputs in a row have two zeros, as sparse tensor cores want it.
        remark: why something is not counted.
    """

    flops: float | None
    active_flops: float | None
    weights: int
    active: int
    nodes: int
    unfolded: int
    two_of_four: int
    remark: str | None = None


def measure(path: Path) -> Work:
    """The work of the optimised graph at ``path``, whose sizes are all fixed."""
    model = onnx_files.read(path)
    unfolded = len(runtime.unfolded(model.graph))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = _shapes(model)
    flops = active_flops = 0.0
    entries = active = fitting = 0
    left_out = []
    for node in model.graph.node:
        if node.op_type not in _COUNTED or node.domain not in ("", "ai.onnx"):
            continue
        macs = _macs(node, shapes)
        if macs is None:
            left_out.append(node.name or node.op_type)
            continue
        share = 1.0
        tensor = weights.get(node.input[1])
        if tensor is not None and tensor.data_type in _READABLE:
            values = numpy_helper.to_array(tensor)
            nonzero = int(np.count_nonzero(values))
            entries, active = entries + values.size, active + nonzero
            share = nonzero / max(values.size, 1)
            fitting += _is_two_of_four(node, values)
        flops += 2.0 * macs
        active_flops += 2.0 * macs * share
    remark = f"not counted, for want of shapes: {', '.join(left_out[:3])}" if left_out else None
    known = not left_out
    return Work(
        flops=flops if known else None,
        active_flops=active_flops if known else None,
        weights=entries,
        active=active,
        nodes=len(model.graph.node),
        unfolded=unfolded,
        two_of_four=fitting,
        remark=remark,
    )


_READABLE = {
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16),
    *(onnx.TensorProto.INT8, onnx.TensorProto.UINT8),
}


def _shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    """Shapes of all tensors whose sizes are known."""
    shell = onnx.ModelProto()
    shell.CopyFrom(model) if model.ByteSize() < _LARGEST else None
    graph = (shape_inference.infer_shapes(shell) if shell.graph.node else model).graph
    known: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            known[value.name] = tuple(size.dim_value for size in sizes)
    return known


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Multiplications of one run; None when a shape is not known."""
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


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _is_two_of_four(node: onnx.NodeProto, values: NDArray[Any]) -> bool:
    """Whether each four consecutive input channels (or features) have at most two that are not zero."""
    if values.ndim < 2:
        return False
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB", 0)):
        values = np.moveaxis(values, -2, -1)
    elif node.op_type != "Gemm":
        values = np.moveaxis(values, 1, -1)
    if values.shape[-1] % 4:
        return False
    return bool(np.all(np.count_nonzero(values.reshape(-1, 4), axis=1) <= 2))
