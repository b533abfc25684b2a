"""Convert a graph from fp32 to fp16.

Inputs and outputs stay fp32, with a Cast at each, so that callers see no difference. Operands that an operator accepts
in fp32 only, such as the scales of a Resize, stay fp32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir import DataType

from exporters.encoding.values import round_to_fp16
from granet.errors import ModelError

_TYPE_ATTRIBUTES = ("to", "dtype")
"""Attributes that name an element type."""

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)

_DEFAULTS: Mapping[str, ir.Attr] = {
    "RandomNormal": ir.AttrInt64("dtype", DataType.FLOAT16),
    "RandomUniform": ir.AttrInt64("dtype", DataType.FLOAT16),
    "ConstantOfShape": ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16))),
}
"""Operators that return fp32 without an attribute, and the attribute with which they return the same in fp16."""


def halve(model: ir.Model) -> ir.Model:
    """Return a copy of ``model`` that computes in fp16.

    Values are rounded to the nearest fp16 number; those below 2^-25 become zero.

    Raises:
        ModelError: a value beyond the largest fp16 number, or an operator that cannot be converted.
    """
    half = model.clone()
    graph = half.graph
    schemas = {node: _schema(node, half.opset_imports) for node in graph}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != DataType.FLOAT:
            continue
        accepted = {_accepts_fp16(schemas[node], index) for node, index in value.uses()}
        if len(accepted) == 2:
            raise ModelError("an initializer is used both in fp16 and in fp32", where=name)
        if False not in accepted:
            value.const_value = _rounded(tensor)
    for node in graph:
        _halve_attributes_(node)
    _cast_ends_(graph)
    return half


def with_all_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` with every intermediate value as an additional output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    names = [name for node in copy.graph.node for name in node.output if name and name not in known]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return copy


def _schema(node: ir.Node, versions: Mapping[str, int]) -> onnx.defs.OpSchema:
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        raise ModelError("a network with branches or loops cannot be converted to fp16", where=node.name)
    try:
        return onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain)
    except onnx.defs.SchemaError:
        raise ModelError(
            "an operator that is not of the standard cannot be converted to fp16", where=node.name
        ) from None


def _accepts_fp16(schema: onnx.defs.OpSchema, index: int) -> bool:
    parameter = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return "tensor(float16)" in allowed.get(parameter, (parameter,))


def _rounded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(round_to_fp16(tensor.numpy(), tensor.name, remedy="compute in fp32"), name=tensor.name)


def _halve_attributes_(node: ir.Node) -> None:
    attributes = node.attributes
    for name in ("value_float", "value_floats") if node.op_type == "Constant" else ():
        if name in attributes:
            attributes.add(ir.AttrTensor("value", ir.tensor(np.array(attributes.pop(name).value, np.float32))))
    default = _DEFAULTS.get(node.op_type)
    if default is not None and default.name not in attributes:
        attributes.add(default)
    for name, attribute in list(attributes.items()):
        if name in _TYPE_ATTRIBUTES and attribute.value == DataType.FLOAT:
            attributes.add(ir.AttrInt64(name, DataType.FLOAT16))
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == DataType.FLOAT:
            attributes.add(ir.AttrTensor(name, _rounded(attribute.as_tensor())))


def _cast_ends_(graph: ir.Graph) -> None:
    """Insert a Cast behind each fp32 input and before each fp32 output, whose names stay those that users see."""
    first = graph[0]
    for value in graph.inputs:
        if value.dtype == DataType.FLOAT:
            uses = value.uses()
            cast = _cast(value, f"{value.name}.fp16", DataType.FLOAT16)
            for node, index in uses:
                node.replace_input_with(index, cast.outputs[0])
            graph.insert_before(first, cast)
    for index, value in enumerate(graph.outputs):
        if value.dtype == DataType.FLOAT:
            name = value.name
            value.name = f"{name}.fp16"
            cast = _cast(value, name, DataType.FLOAT)
            cast.outputs[0].type, cast.outputs[0].shape = value.type, value.shape
            graph.outputs[index] = cast.outputs[0]
            graph.append(cast)


def _cast(source: ir.Value, target: str | None, dtype: DataType) -> ir.Node:
    output = ir.Value(name=target)
    return ir.node("Cast", [source], {"to": dtype.value}, outputs=[output], name=f"cast_{target}")
