"""Small ONNX models put together by hand, and what ONNX Runtime makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters import runtime
from exporters.runtime import Level

Array = NDArray[Any]

TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, Array],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str] = ("y",),
    *,
    opset: int = 20,
    ir: int = 10,
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A graph of ``nodes``; outputs have a rank that is not told."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name, type=helper.make_tensor_type_proto(element, ["a", "b"])) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def product(weight: Array, **options: Any) -> onnx.ModelProto:
    """x [2, rows] times a weight "w" of any shape, reshaped to [rows, columns]."""
    rows = weight.shape[0] if weight.ndim else 1
    nodes = [
        helper.make_node("Reshape", ["w", "rows"], ["matrix"]),
        helper.make_node("MatMul", ["x", "matrix"], ["y"]),
    ]
    initializers = {"w": weight, "rows": np.array([rows, -1], np.int64)}
    return model(nodes, initializers, {"x": [2, rows]}, element=TYPES[weight.dtype], **options)


def conv(weight: Array, **options: Any) -> onnx.ModelProto:
    """A convolution of images x with a weight "w"."""
    graph = model(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"w": weight},
        {"x": ["batch", weight.shape[1], 5, 5]},
        element=TYPES[weight.dtype],
        **options,
    )
    size = 8 - weight.shape[2]
    kind = helper.make_tensor_type_proto(TYPES[weight.dtype], ["batch", weight.shape[0], size, size])
    graph.graph.output[0].type.CopyFrom(kind)
    return graph


def inputs_of(graph: onnx.ModelProto) -> list[Array]:
    """Random numbers of the shape and type of each input, always the same; 2 where a dimension is free."""
    generator = np.random.default_rng(0)
    made = []
    for value in graph.graph.input:
        kind = value.type.tensor_type
        shape = [size.dim_value or 2 for size in kind.shape.dim]
        made.append(generator.standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    return made


def run(graph: onnx.ModelProto, level: Level = "basic") -> tuple[list[bytes], list[str]]:
    """The bits of the outputs for :func:`inputs_of`, and the operators of the graph that ran, sorted."""
    with tempfile.TemporaryDirectory() as folder:
        path, optimised = Path(folder, "model.onnx"), Path(folder, "optimised.onnx")
        path.write_bytes(graph.SerializeToString())
        session = runtime.open_session(path, level=level, optimised=optimised, threads=1)
        outputs = [output.tobytes() for output in session.run(inputs_of(graph))]
        left = onnx.load(optimised, load_external_data=False).graph
    return outputs, sorted(node.op_type for node in left.node)


def initializer(graph: onnx.ModelProto, name: str) -> Array:
    """The values of an initializer."""
    return numpy_helper.to_array(next(tensor for tensor in graph.graph.initializer if tensor.name == name))
