"""The way back from files of anybody: what a decoder or a sparse tensor stands for, or why it stands for nothing.

Nothing is allocated because something is claimed. A tensor has as many elements as bytes are there for, and positions
of ours justify the size of what they are positions in. The standard's do not, and any may be claimed again and again;
so all that a model claims together is at most ``PER_BYTE`` weights for each of its bytes, and ``ALLOWANCE`` more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding import coo, decoder_functions, layouts
from exporters.encoding.decoder_functions import DOMAIN, LAYOUTS, Format
from exporters.encoding.graphs import is_text, subgraphs
from exporters.encoding.layouts import Packed
from exporters.encoding.values import DTYPES, PRECISION_OF, Array, restore
from granet.errors import ModelError

PER_BYTE = 256
"""Weights that a model may have for each of its bytes: a filler of gaps8 skips 255, and something has to read it."""

ALLOWANCE = 2**24
"""Weights that any model may have: a sparse tensor of the standard with few values takes next to no bytes."""

_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_HALF_BYTES = (TensorProto.UINT4, TensorProto.INT4)

Source = TensorProto | onnx.SparseTensorProto

Scope = Mapping[str, Source]
"""The constant tensors that a graph sees, by name."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A node that stands for a weight, found sound.

    Attributes:
        node: the call of one of our functions.
        name: of the weight.
        shape: of the weight.
        encoding: gaps8, gaps4, bitmask, coo or dense.
        precision: of the stored values: fp32, fp16 or int8.
        active: how many stored values are not zero.
        inputs: the tensors that it reads.
    """

    node: onnx.NodeProto
    name: str
    shape: tuple[int, ...]
    encoding: str
    precision: str
    active: int
    inputs: tuple[Source, ...]
    _layout: str
    _format: Format
    _packed: Packed
    _scales: Array | None

    @property
    def type(self) -> int:
        """The element type of the weight."""
        return self._format.weight

    def decode(self) -> Array:
        """The weight, bit by bit what ONNX Runtime makes of it."""
        values = self._packed.values
        if self._layout != "Dense":
            values = layouts.unpack(self._layout, self._packed, math.prod(self.shape)).reshape(self.shape)
        return restore(values, self._format, self._scales)


@dataclass(frozen=True, eq=False)
class Sparse:
    """A sparse tensor of the standard, found sound.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
        type: its element type.
        active: how many of its values are not zero.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    active: int
    _values: Array
    _indices: Array

    def decode(self) -> Array:
        """The tensor with its zeros."""
        return coo.dense(self._values, self._indices, self.shape)


class WeightReader:
    """Reads the encoded tensors of one model, and adds up what they claim.

    Raises:
        ModelError: the model has names that are no text.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if not is_text(model):
            raise ModelError("a model with names that are not UTF-8", remedy="it is damaged: export it again")
        ours = [function for function in model.functions if is_decoder_domain(function.domain)]
        self._known = {function.name for function in ours if decoder_functions.is_ours(function)}
        self._left = PER_BYTE * int(model.ByteSize()) + ALLOWANCE

    def decoder(self, node: onnx.NodeProto, scope: Scope) -> Decoder:
        """What a node of our domain stands for.

        Raises:
            ModelError: it is none that granet writes, or its tensors make no weight.
        """
        name = node.output[0] if node.output else ""
        found = decoder_functions.meaning(node.op_type)
        if found is None or node.op_type not in self._known or len(node.output) != 1:
            raise ModelError(
                "a decoder that this granet does not know",
                where=name,
                got=node.op_type,
                remedy="use the version of granet that wrote the file, or a newer one",
            )
        try:
            return self._read(node, name, *found, scope)
        except ValueError as error:
            raise ModelError("an encoded weight that is damaged", where=name, got=error) from error

    def sparse(self, tensor: onnx.SparseTensorProto, name: str) -> Sparse:
        """What a sparse tensor stands for.

        Raises:
            ModelError: it is not one, or claims to be larger than the bytes of the model justify.
        """
        try:
            shape = tuple(tensor.dims)
            values, indices = array(tensor.values), array(tensor.indices)
            self._claim(shape)
            coo.check(values, indices, shape)
        except ValueError as error:
            raise ModelError("a sparse tensor that is damaged", where=name, got=error) from error
        return Sparse(name, shape, tensor.values.data_type, int(np.count_nonzero(values)), values, indices)

    def _read(self, node: onnx.NodeProto, name: str, layout_name: str, form: Format, scope: Scope) -> Decoder:
        layout = LAYOUTS[layout_name]
        roles = [*([layout.positions] if layout.positions else []), "values", *(["scales"] if form.scaled else [])]
        missing = [given for given in node.input if given not in scope]
        if len(node.input) != len(roles) or missing:
            raise ValueError(f"inputs {list(node.input)}; expected constant tensors for {', '.join(roles)}")
        given = {role: scope[source] for role, source in zip(roles, node.input, strict=True)}
        attributes = {attribute.name: list(_integers(attribute)) for attribute in node.attribute}
        if attributes.keys() != set(layout.attributes):
            raise ValueError(f"attributes {sorted(attributes)}; expected {sorted(layout.attributes)}")
        stored = given["values"]
        sparse = isinstance(stored, onnx.SparseTensorProto)
        values = self.sparse(stored, name).decode() if layout_name == "Dense" and sparse else _dense(stored)
        if values.dtype != DTYPES[form.stored]:
            raise ValueError(f"values of type {values.dtype}; expected {DTYPES[form.stored]}")
        shape = tuple(attributes.get("shape", values.shape))
        self._claim(shape)
        packed = Packed(np.empty(0, np.uint8), 0, values)
        if layout.positions is not None:
            packed = _packed(layout.type, given[layout.positions], values, attributes.get("count"))
            if attributes["size"] != [math.prod(shape)]:
                raise ValueError(f"a size of {attributes['size']} for the shape {shape}")
            layouts.check(layout_name, packed, math.prod(shape))
        return Decoder(
            node=node,
            name=name,
            shape=shape,
            encoding="coo" if sparse else layout.encoding,
            precision=PRECISION_OF[form.stored],
            active=int(np.count_nonzero(values)),
            inputs=tuple(given.values()),
            _layout=layout_name,
            _format=form,
            _packed=packed,
            _scales=_scales(_dense(given["scales"]), shape) if form.scaled else None,
        )

    def _claim(self, shape: tuple[int, ...]) -> None:
        if any(size < 0 for size in shape):
            raise ValueError(f"a shape of {shape}")
        self._left -= math.prod(shape)
        if self._left < 0:
            raise ValueError(f"a shape of {shape}, for which the model has too few bytes")


def is_decoder_domain(domain: str) -> bool:
    """Whether operators of ``domain`` are our decoders."""
    return domain == DOMAIN


def decoders(model: onnx.ModelProto) -> list[Decoder]:
    """Every decoder in the graph of ``model`` and the graphs inside it.

    Raises:
        ModelError: one that granet did not write, or that is damaged.
    """
    reader = WeightReader(model)
    return [
        reader.decoder(node, scope)
        for graph, scope in scopes(model.graph)
        for node in graph.node
        if is_decoder_domain(node.domain)
    ]


def scopes(graph: onnx.GraphProto, outer: Scope | None = None) -> Iterator[tuple[onnx.GraphProto, Scope]]:
    """A graph and those inside it, each with the constant tensors that it sees."""
    own: dict[str, Source] = dict(outer or {})
    for value in graph.input:  # an initializer that is an input too can be replaced
        own.pop(value.name, None)
    variable = {value.name for value in graph.input}
    own |= {tensor.name: tensor for tensor in graph.initializer if tensor.name not in variable}
    own |= {tensor.values.name: tensor for tensor in graph.sparse_initializer if tensor.values.name not in variable}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            own |= {name: x.t for x in node.attribute for name in node.output if x.name == "value"}
    yield graph, own
    for node in graph.node:
        for inner in subgraphs(node):
            yield from scopes(inner, own)


def array(tensor: TensorProto) -> Array:
    """The elements of a dense tensor, of any type but text.

    Raises:
        ValueError: it has not as many as its shape says, or of no such type, or they are in another file.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ValueError("data in another file, which was not read")
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape):
        raise ValueError(f"a shape of {shape}")
    present = _present(tensor)
    if present != math.prod(shape):
        raise ValueError(f"{present} elements for a shape of {shape}")
    try:
        found: Array = numpy_helper.to_array(tensor)
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"elements that cannot be read: {error}") from error
    return found


def _present(tensor: TensorProto) -> int:
    """How many elements there are bytes for; for pairs of half bytes, as the shape has it where that fits."""
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise ValueError(f"elements of type {tensor.data_type}") from error
    if tensor.data_type == TensorProto.STRING:
        return len(tensor.string_data)
    claimed = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        if tensor.data_type in _HALF_BYTES:
            return claimed if len(tensor.raw_data) == -(-claimed // 2) else 2 * len(tensor.raw_data)
        if len(tensor.raw_data) % dtype.itemsize:
            raise ValueError(f"{len(tensor.raw_data)} bytes for elements of {dtype.itemsize}")
        return len(tensor.raw_data) // dtype.itemsize
    entries = max(len(getattr(tensor, field)) for field in _FIELDS)
    if tensor.data_type in _HALF_BYTES:
        return claimed if entries == -(-claimed // 2) else 2 * entries
    return entries // 2 if dtype.kind == "c" else entries


def _dense(source: Source) -> Array:
    if isinstance(source, onnx.SparseTensorProto):
        raise ValueError("a sparse tensor where a dense one should be")
    return array(source)


def _packed(kind: int, positions: Source, values: Array, count: list[int] | None) -> Packed:
    found = _dense(positions)
    if found.dtype != helper.tensor_dtype_to_np_dtype(kind):
        raise ValueError(f"positions of type {found.dtype}; expected {helper.tensor_dtype_to_np_dtype(kind)}")
    if found.ndim != 1 or values.ndim != 1:
        raise ValueError("positions or values that have not one dimension")
    if count is not None and len(count) != 1:
        raise ValueError(f"a count of {count}")
    entries = found.size if count is None else count[0]
    if kind == TensorProto.UINT4:
        found = layouts.nibbles(found.astype(np.uint8))
    return Packed(found, entries, values)


def _scales(scales: Array, shape: tuple[int, ...]) -> Array:
    fits = scales.ndim == len(shape) and all(a in (1, b) for a, b in zip(scales.shape, shape, strict=True))
    if scales.dtype != np.float32 or not fits:
        raise ValueError(f"scales of type {scales.dtype} and shape {scales.shape} for the shape {shape}")
    return scales


def _integers(attribute: onnx.AttributeProto) -> Sequence[int]:
    if attribute.type != onnx.AttributeProto.INTS:
        raise ValueError(f"attribute {attribute.name!r} that is not a list of integers")
    found: Sequence[int] = attribute.ints
    return found
