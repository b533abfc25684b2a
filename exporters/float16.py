"""A graph in fp32 -> the same graph computing in fp16.

Inputs and outputs stay as they are, with a Cast at each, so that whoever feeds the model need not know. What an
operator wants in fp32 whatever else it takes, such as the scales of a Resize, stays in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from granet.errors import ModelError

LARGEST = 65504.0
"""The largest number in fp16."""

_TYPE_ATTRIBUTES = {"to", "dtype"}
"""Attributes that name an element type."""

_DEFAULTS = {"RandomNormal": "dtype", "RandomUniform": "dtype", "ConstantOfShape": "value"}
"""Operators that give fp32 unless this attribute says otherwise."""


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` that computes in fp16.

    Values are rounded to the nearest fp16 number; those below 2^-25 become zero.

    Raises:
        ModelError: a value beyond the largest fp16 number, or an operator that fp16 does not go through.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    del graph.value_info[:]
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    wanted = _wanted_types(half, floats)
    for tensor in list(graph.initializer):
        if tensor.name in floats and wanted.get(tensor.name) != {"tensor(float)"}:
            if "tensor(float)" in wanted.get(tensor.name, ()):
                raise ModelError("a value is wanted both in fp16 and in fp32", where=tensor.name)
            tensor.CopyFrom(_halved(tensor))
    for node in graph.node:
        _halve_attributes(node)
    _cast_ends(graph)
    return half


def probe(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` that gives every value on the way as an output too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    names = [name for node in copy.graph.node for name in node.output if name and name not in known]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return copy


def _wanted_types(model: onnx.ModelProto, floats: Iterable[str]) -> dict[str, set[str]]:
    """For each fp32 initializer, the type of each place that reads it: tensor(float) where nothing else goes."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    names = set(floats)
    wanted: dict[str, set[str]] = {}
    for node in model.graph.node:
        try:
            schema = onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain)
        except onnx.defs.SchemaError:
            raise ModelError("an operator that is not of the standard has no fp16 form here", where=node.name) from None
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
            raise ModelError("networks with branches or loops in the graph have no fp16 form here", where=node.name)
        for index, name in enumerate(node.input):
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            if name in names:
                wanted.setdefault(name, set()).add(_kind(formal.type_str, allowed))
    return wanted


def _kind(type_string: str, allowed: Mapping[str, Iterable[str]]) -> str:
    if "tensor(float16)" in allowed.get(type_string, (type_string,)):
        return "tensor(float16)"
    return "tensor(float)"


def _halved(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.isinf(half[np.isfinite(values)]).any():
        raise ModelError(
            "a value is beyond the range of fp16",
            where=tensor.name,
            got=f"{np.abs(values).max():g}",
            expected=f"at most {LARGEST:g}",
            remedy="compute in fp32",
        )
    return numpy_helper.from_array(half, tensor.name)


def _halve_attributes(node: onnx.NodeProto) -> None:
    if node.op_type == "Constant":
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_floats"):
                values = np.array(helper.get_attribute_value(attribute), np.float32)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
    missing = _DEFAULTS.get(node.op_type)
    if missing is not None and missing not in {attribute.name for attribute in node.attribute}:
        zero = numpy_helper.from_array(np.zeros(1, np.float16))
        node.attribute.append(helper.make_attribute(missing, zero if missing == "value" else TensorProto.FLOAT16))
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == attribute.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t))


def _cast_ends(graph: onnx.GraphProto) -> None:
    """Casts behind the fp32 inputs and before the fp32 outputs, whose names stay with what users see."""
    readers: dict[str, str] = {}
    casts = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            readers[value.name] = f"{value.name}.fp16"
            casts.append(_cast(value.name, readers[value.name], TensorProto.FLOAT16))
    ends = []
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            readers[value.name] = f"{value.name}.fp16"
            ends.append(_cast(readers[value.name], value.name, TensorProto.FLOAT))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [readers.get(name, name) for name in names]
    body = [*casts, *graph.node, *ends]
    del graph.node[:]
    graph.node.extend(body)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)
