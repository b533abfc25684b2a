"""Inspect an untrusted ONNX file: its weights, how many of them are not zero, and how they are stored.

All counts are of what is stored. Nothing is run, and no decoder is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from exporters.encoding import EncodedWeight, decode
from exporters.encoding.decode import WeightReader
from exporters.encoding.values import Array, type_name
from exporters.graphs import field_bytes, graphs
from exporters.islands import inline_islands
from exporters.weight_tensors import Operand, operands
from granet.analysis.json_values import json_value
from granet.checkpoint import canonical
from granet.errors import CheckpointError, ModelError

_KEY = "granet."
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, kw_only=True)
class WeightReport:
    """One weight of two dimensions or more.

    Attributes:
        name: of the tensor, or of the value that a node computes.
        shape: as it is stored.
        parameters: how many elements it has.
        active: how many of them are not zero.
        density: active over parameters, 0 to 1; 1 where there are no parameters.
        encoding: dense; coo, the standard's sparse tensor; or one of ours, gaps8, gaps4 or bitmask.
        type: of the stored values, such as fp32, bf16 or int8.
        bytes: what it takes in the file, nodes and names included.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    active: int
    density: float
    encoding: str
    type: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ValueReport:
    """An input or output.

    Attributes:
        name: of the value.
        type: of its elements; None for what is no tensor.
        shape: for each dimension its size, its name where it is free, or None; None where the file has no shape.
    """

    name: str
    type: str | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class OnnxInspection:
    """What ``granet inspect`` shows of an ONNX file.

    Attributes:
        opsets: versions by domain; the standard operators are ``ai.onnx``.
        ir_version: of the file format.
        producer: the program that wrote it, with its version.
        inputs: of the graph, without initializers.
        outputs: of the graph.
        nodes: how many, those of subgraphs included.
        metadata: entries of granet, by key without ``granet.``.
        parameters: weights of the layers below.
        active: how many of them are not zero.
        density: active over parameters; 1 where there are no weights.
        total_parameters: those and all other floating-point initializers, such as biases.
        weight_bytes: what the layers below take in the file.
        layers: weights in the order in which the graph uses them.
        notes: what could not be counted, and why.
    """

    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    inputs: tuple[ValueReport, ...]
    outputs: tuple[ValueReport, ...]
    nodes: int
    metadata: Mapping[str, Any]
    parameters: int
    active: int
    density: float
    total_parameters: int
    weight_bytes: int
    layers: tuple[WeightReport, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the same as dictionaries, lists and numbers; ``step``, which a checkpoint has, is None."""
        return {"format": "onnx", "step": None, **json_value(self)}


def inspect(model: onnx.ModelProto) -> OnnxInspection:
    """Count the weights of ``model``, which may be untrusted, with the data of all its tensors.

    Raises:
        ModelError: tensors that are damaged, or decoders that granet did not write.
    """
    model = inline_islands(model)
    reader = WeightReader(model)
    weights, decoders, computed = operands(model, reader)
    notes: list[str] = []
    reports = [_report(operand, reader, notes) for operand in weights]
    layers = tuple(report for report in reports if len(report.shape) > 1)
    if computed:
        notes.append(f"{computed} layers multiply by what the graph computes; that is not counted")
    parameters, active = sum(layer.parameters for layer in layers), sum(layer.active for layer in layers)
    initializers = {tensor.name for tensor in model.graph.initializer}
    counted = {layer.name for layer in layers} | {name for decoder in decoders for name in decoder.inputs}
    others = sum(
        math.prod(tensor.dims)
        for graph in graphs(model.graph)
        for tensor in graph.initializer
        if tensor.name not in counted and tensor.data_type in _FLOATS
    )
    return OnnxInspection(
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=tuple(_value(value) for value in model.graph.input if value.name not in initializers),
        outputs=tuple(_value(value) for value in model.graph.output),
        nodes=sum(len(graph.node) for graph in graphs(model.graph)),
        metadata=dict(_metadata(model)),
        parameters=parameters,
        active=active,
        density=active / parameters if parameters else 1.0,
        total_parameters=parameters + others,
        weight_bytes=sum(layer.bytes for layer in layers),
        layers=layers,
        notes=tuple(notes),
    )


def _report(operand: Operand, reader: WeightReader, notes: list[str]) -> WeightReport:
    source, name = operand.source, operand.name
    if isinstance(source, onnx.SparseTensorProto):
        source = reader.sparse(source, name)
    if isinstance(source, EncodedWeight):
        shape, active, encoding, type_, size = source.shape, source.active, source.encoding, source.type, source.bytes
    else:
        active = _count_active(_array(source, name), operand, notes)
        shape, encoding, type_, size = tuple(source.dims), "dense", type_name(source.data_type), field_bytes(source)
    parameters = math.prod(shape)
    return WeightReport(
        name=name,
        shape=shape,
        parameters=parameters,
        active=active,
        density=active / parameters if parameters else 1.0,
        encoding=encoding,
        type=type_,
        bytes=size,
    )


def _count_active(values: Array, operand: Operand, notes: list[str]) -> int:
    """Count the values that are not zero, or are not the integer that represents zero."""
    if operand.zero is None:
        return int(np.count_nonzero(values))
    zeros = _array(operand.zero, operand.name) if isinstance(operand.zero, TensorProto) else None
    if zeros is None or zeros.size == 0 or (zeros != zeros.flat[0]).any():
        notes.append(f"{operand.name} has zeros of several kinds, and all of its elements are counted as active")
        return int(values.size)
    return int(np.count_nonzero(values != zeros.flat[0]))


def _array(tensor: TensorProto, name: str) -> Array:
    try:
        return decode.array(tensor)
    except ValueError as error:
        raise ModelError("a tensor that is damaged", where=name, got=error) from error


def _value(value: onnx.ValueInfoProto) -> ValueReport:
    if not value.type.HasField("tensor_type"):
        return ValueReport(name=value.name, type=None, shape=None)
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor.shape.dim
        )
    return ValueReport(name=value.name, type=type_name(tensor.elem_type), shape=shape)


def _metadata(model: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """Entries of granet, which are JSON; other text is shown as it is."""
    for entry in model.metadata_props:
        if entry.key.startswith(_KEY):
            try:
                value = canonical.loads(entry.value, where=entry.key)
            except CheckpointError:
                value = entry.value
            yield entry.key.removeprefix(_KEY), value
