"""A look inside an ONNX file of anybody: its weights, how many of them are not zero, and how they are stored.

All counts are of what is stored. Nothing is run, and nothing is decoded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from exporters.encoding import Decoder, decode
from exporters.encoding.decode import WeightReader
from exporters.encoding.graphs import graphs
from exporters.encoding.node_builder import field_bytes
from exporters.encoding.values import Array
from exporters.weight_tensors import Operand, operands
from granet.checkpoint import canonical
from granet.errors import CheckpointError, ModelError

_KEY = "granet."
_TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}


@dataclass(frozen=True, kw_only=True)
class WeightReport:
    """One weight of two dimensions or more.

    Attributes:
        name: of the tensor, or of what a node makes.
        shape: as it is stored.
        parameters: how many elements it has.
        active: how many of them are not zero.
        density: active over parameters, 0 to 1.
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
        shape: a size for each dimension, a name where it is free, None where nothing is said; None when not even the
            number of dimensions is said.
    """

    name: str
    type: str | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class OnnxInspection:
    """All that ``granet inspect`` shows of an ONNX file.

    Attributes:
        opsets: versions by domain; the standard operators are ``ai.onnx``.
        ir_version: of the file format.
        producer: the program that wrote it, with its version.
        inputs: what has to be given.
        outputs: what is returned.
        nodes: how many, those of subgraphs included.
        metadata: what granet noted in the file, by key without ``granet.``.
        parameters: weights of the layers below.
        active: how many of them are not zero.
        density: active over parameters; 1 where there are no weights.
        total_parameters: those and all other floating-point initializers, such as biases.
        weight_bytes: what the layers below take in the file.
        layers: weights in the order in which the graph uses them.
        notes: what could not be told, and why.
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
        """The same as plain dictionaries, lists and numbers; ``step``, which a checkpoint has, is None."""
        report = dataclasses.asdict(self)
        for key in ("inputs", "outputs", "layers"):
            report[key] = [
                {**item, "shape": None if item["shape"] is None else list(item["shape"])} for item in report[key]
            ]
        return {"format": "onnx", "step": None, **report, "notes": list(self.notes)}


def inspect(model: onnx.ModelProto) -> OnnxInspection:
    """Counts the weights of ``model``, which may come from anybody, with the data of all its tensors.

    Raises:
        ModelError: tensors that are damaged, or decoders that granet did not write.
    """
    reader = WeightReader(model)
    weights = operands(model, reader)
    notes: list[str] = []
    reports = [_report(operand, reader, notes) for operand in weights.found]
    layers = tuple(report for report in reports if len(report.shape) > 1)
    if weights.computed:
        notes.append(f"{weights.computed} layers multiply by what the graph computes; that is not counted")
    parameters, active = sum(layer.parameters for layer in layers), sum(layer.active for layer in layers)
    initializers = {tensor.name for tensor in model.graph.initializer}
    apart = {layer.name for layer in layers} | {name for decoder in weights.decoders for name in decoder.node.input}
    others = sum(
        math.prod(tensor.dims)
        for graph in graphs(model.graph)
        for tensor in graph.initializer
        if tensor.name not in apart and tensor.data_type in _TYPES
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
    if isinstance(source, Decoder):
        stored = sum(field_bytes(part.ByteSize()) for part in (source.node, *source.inputs))
        facts = source.shape, source.active, source.encoding, source.precision, stored
    elif isinstance(source, onnx.SparseTensorProto):
        sparse = reader.sparse(source, name)
        facts = sparse.shape, sparse.active, "coo", _type(sparse.type), field_bytes(source.ByteSize())
    else:
        active = _active(_array(source, name), operand, notes)
        facts = tuple(source.dims), active, "dense", _type(source.data_type), field_bytes(source.ByteSize())
    shape, active, encoding, kind, size = facts
    parameters = math.prod(shape)
    return WeightReport(
        name=name,
        shape=shape,
        parameters=parameters,
        active=active,
        density=active / parameters if parameters else 1.0,
        encoding=encoding,
        type=kind,
        bytes=size,
    )


def _active(values: Array, operand: Operand, notes: list[str]) -> int:
    """How many values are not zero, or are not the integer that stands for zero."""
    if operand.zero is None:
        return int(np.count_nonzero(values))
    zeros = None if isinstance(operand.zero, onnx.SparseTensorProto) else _array(operand.zero, operand.name)
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
    kind = value.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in kind.shape.dim
        )
    return ValueReport(name=value.name, type=_type(kind.elem_type), shape=shape)


def _type(kind: int) -> str:
    known = kind in TensorProto.DataType.values()
    return _TYPES.get(kind) or (TensorProto.DataType.Name(kind).lower() if known else f"type {kind}")


def _metadata(model: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """Entries of granet, which writes JSON; what is none is shown as it is."""
    for entry in model.metadata_props:
        if entry.key.startswith(_KEY):
            try:
                value = canonical.loads(entry.value, where=entry.key)
            except CheckpointError:
                value = entry.value
            yield entry.key.removeprefix(_KEY), value
