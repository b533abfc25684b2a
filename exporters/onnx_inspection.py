"""Inspect an untrusted ONNX file: its weights, how many of them are not zero, and how they are stored.

Counts are of the constants that layers multiply by, as they are stored or as operators compute them, within a budget,
from what is stored. No decoder is evaluated. What could be a weight but is not counted is named in a note.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from exporters import weight_tensors
from exporters.constants import Constants, Part, UncountableError
from exporters.encoding.decode import WeightReader
from exporters.encoding.values import type_name
from exporters.graphs import graphs
from exporters.islands import inline_islands
from exporters.weight_counts import WeightReport, count, main_part, part_name, part_shape
from exporters.weight_tensors import FoundWeights, could_be_weight
from granet.analysis.json_values import json_value
from granet.checkpoint import canonical
from granet.errors import CheckpointError, counted

_KEY = "granet."
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

_FEW = 6
"""Tensors that notes name one by one."""


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
        density: active over parameters; None where no weights were counted.
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
    density: float | None
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
    constants = Constants(model, reader)
    found = weight_tensors.find(model, reader, constants)
    layers, claimed, notes = _count(found, reader, constants)
    notes += _not_counted(found, claimed)
    parameters, active = sum(layer.parameters for layer in layers), sum(layer.active for layer in layers)
    if not parameters:
        notes.append("no weight of a layer could be counted, so nothing is known of the density")
    initializers = {tensor.name for tensor in model.graph.initializer}
    others = sum(
        math.prod(tensor.dims)
        for graph in graphs(model.graph)
        for tensor in graph.initializer
        if id(tensor) not in claimed and tensor.name not in found.inputs_of_decoders and tensor.data_type in _FLOATS
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
        density=active / parameters if parameters else None,
        total_parameters=parameters + others,
        weight_bytes=sum(layer.bytes for layer in layers),
        layers=tuple(layers),
        notes=tuple(notes),
    )


def _count(
    found: FoundWeights, reader: WeightReader, constants: Constants
) -> tuple[list[WeightReport], dict[int, Part], list[str]]:
    """Return each weight once, the tensors that they are stored in by their identity, and notes."""
    layers: list[WeightReport] = []
    claimed: dict[int, Part] = {}
    seen: set[tuple[int, ...]] = set()
    notes: list[str] = []
    padded = 0
    for operand in found.operands:
        origin = operand.constant.origin
        parts = tuple(map(id, origin.parts))
        place = parts if origin.node is None else (*parts, id(origin.node), origin.node.output[:].index(origin.name))
        if place in seen:
            continue
        seen.add(place)
        try:
            report = count(operand, reader)
        except UncountableError as error:
            if len(notes) < _FEW:
                notes.append(f"{origin.name}, which {operand.operator} multiplies by, is not counted: {error}")
            continue
        finally:
            constants.forget()
        # A tensor counts once, whatever it is multiplied by before it is used.
        main = main_part(origin, report.parameters)
        if len(report.shape) < 2 or (main is not None and origin.node is not None and (id(main),) in seen):
            continue
        if main is not None:
            seen.add((id(main),))
        claimed |= {id(part): part for part in origin.parts}
        padded += operand.operator == "com.microsoft.nchwc.Conv"
        layers.append(report)
    if padded:
        notes.append(
            f"{counted(padded, 'weight')} in ONNX Runtime's own layout, which pads channels with zeros; the last "
            "channels of a weight are taken for padding where all of it is zero and the file does not say more"
        )
    return layers, claimed, notes


def _not_counted(found: FoundWeights, claimed: Mapping[int, Part]) -> Iterator[str]:
    """Say which tensors could be weights, but are not counted."""
    if found.computed:
        yield (f"{found.computed} layers multiply by what the graph computes or is given; that is not counted")
    left = [
        (part, readers)
        for key, (part, readers) in found.readers.items()
        if key not in claimed and readers and could_be_weight(part)
    ]
    if left:
        shown = ", ".join(
            f"{part_name(part) or 'a constant'} ({'x'.join(map(str, part_shape(part)))}, read by {readers[0]})"
            for part, readers in left[:_FEW]
        )
        more = f" and {len(left) - _FEW} more" if len(left) > _FEW else ""
        yield f"{len(left)} tensors of two and more dimensions are not counted as weights of layers: {shown}{more}"
    for operator, numbers in found.numbers.items():
        if numbers:
            yield f"{operator} keeps {numbers} numbers in its attributes, which are not counted"
    if found.not_followed is not None:
        yield f"weights inside some functions are not counted: {found.not_followed}"


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
