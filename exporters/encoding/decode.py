"""Read encoded weights of untrusted files.

Nothing is allocated because a file claims a size. A dense tensor has as many elements as there are bytes for, and the
positions of our decoders justify the size of the tensor that they are positions in. Those of the standard's sparse
tensors do not, and a tensor may be used again and again; so all weights of a model together may have at most
``PER_BYTE`` elements for each of its bytes, and ``ALLOWANCE`` more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding import coo, decoder_functions, layouts
from exporters.encoding.decoder_functions import DOMAIN, FUNCTIONS, LAYOUTS, DecoderLayout
from exporters.encoding.layouts import Packed
from exporters.encoding.values import Array, restore, type_name
from exporters.graphs import field_bytes, is_text, subgraphs
from granet.errors import ModelError

PER_BYTE = 256
"""Weights that a model may have for each of its bytes: a filler of gaps8 skips 255, and takes a byte."""

ALLOWANCE = 2**24
"""Weights that any model may have: a sparse tensor of the standard with few values takes next to no bytes."""

_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_BITS: Mapping[int, int] = {
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
}
"""Bits of types that are smaller than a byte; UINT2, INT2 and FLOAT6 by number, for older packages of onnx."""


Source = TensorProto | onnx.SparseTensorProto


class UnknownTypeError(ValueError):
    """A tensor whose element type this version cannot read, which is not damage."""


Scope = Mapping[str, Source]
"""The constant tensors that the nodes of a graph can read, by name."""


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """A weight that one of our decoders computes, or a sparse tensor of the standard, after all checks.

    Attributes:
        name: of the weight.
        shape: of the weight.
        encoding: gaps8, gaps4, bitmask, coo or dense.
        type: of the stored values, such as fp32, fp16 or int8.
        active: how many stored values are not zero.
        bytes: what it takes in the file, its node and all names included.
        inputs: names of the tensors that its decoder reads.
        decode: returns the weight, bit by bit what ONNX Runtime computes.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    type: str
    active: int
    bytes: int
    inputs: tuple[str, ...]
    decode: Callable[[], Array]


class WeightReader:
    """Reads the encoded weights of one model, and limits their size.

    Raises:
        ModelError: the model has names that are not UTF-8.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if not is_text(model):
            raise ModelError("a model with names that are not UTF-8", remedy="it is damaged: export it again")
        ours = [function for function in model.functions if function.domain == DOMAIN]
        self._known = {function.name for function in ours if decoder_functions.is_ours(function)}
        self._left = PER_BYTE * int(model.ByteSize()) + ALLOWANCE

    def decoders(self, graph: onnx.GraphProto, scope: Scope) -> list[EncodedWeight]:
        """Return the weights that nodes of our domain compute in a graph, without the graphs inside it.

        Raises:
            ModelError: a decoder that granet does not write, or one with damaged tensors.
        """
        return [self.decoder(node, scope) for node in graph.node if node.domain == DOMAIN]

    def sparse(self, tensor: onnx.SparseTensorProto, name: str) -> EncodedWeight:
        """Return the weight in a sparse tensor of the standard.

        Raises:
            ModelError: it is damaged, or larger than the bytes of the model justify.
        """
        try:
            shape = tuple(tensor.dims)
            values, indices = array(tensor.values), array(tensor.indices)
            self.claim(shape)
            coo.check(values, indices, shape)
        except ValueError as error:
            raise ModelError("a sparse tensor that is damaged", where=name, got=error) from error
        return EncodedWeight(
            name=name,
            shape=shape,
            encoding="coo",
            type=type_name(tensor.values.data_type),
            active=int(np.count_nonzero(values)),
            bytes=field_bytes(tensor),
            inputs=(),
            decode=lambda: coo.dense(values, indices, shape),
        )

    def decoder(self, node: onnx.NodeProto, scope: Scope) -> EncodedWeight:
        """Return the weight that a node of our domain computes from the constant tensors in ``scope``.

        Raises:
            ModelError: a decoder that granet does not write, or one with damaged tensors.
        """
        name = node.output[0] if node.output else ""
        if node.op_type not in self._known or len(node.output) != 1:
            raise ModelError(
                "a decoder that this granet does not know",
                where=name,
                got=node.op_type,
                remedy="use the version of granet that wrote the file, or a newer one",
            )
        try:
            return self._read(node, name, scope)
        except ValueError as error:
            raise ModelError("an encoded weight that is damaged", where=name, got=error) from error

    def _read(self, node: onnx.NodeProto, name: str, scope: Scope) -> EncodedWeight:
        layout_name, format = FUNCTIONS[node.op_type]
        layout = LAYOUTS[layout_name]
        roles = layout.inputs(format)
        if len(node.input) != len(roles) or not all(source in scope for source in node.input):
            raise ValueError(f"inputs {list(node.input)}; expected constant tensors for {', '.join(roles)}")
        given = {role: scope[source] for role, source in zip(roles, node.input, strict=True)}
        attributes = {attribute.name: _integers(attribute) for attribute in node.attribute}
        if attributes.keys() != set(layout.attributes):
            raise ValueError(f"attributes {sorted(attributes)}; expected {sorted(layout.attributes)}")
        stored, encoding = given["values"], layout.encoding
        if isinstance(stored, onnx.SparseTensorProto) and layout.positions is None:
            encoding, values = "coo", self.sparse(stored, name).decode()
        else:
            values = _dense(stored)
        if values.dtype != (expected := helper.tensor_dtype_to_np_dtype(format.stored)):
            raise ValueError(f"values of type {values.dtype}; expected {expected}")
        shape = tuple(attributes.get("shape", values.shape))
        size = math.prod(shape)
        self.claim(shape)
        packed = None
        if layout.positions is not None:
            packed = _packed(layout, given[layout.positions], values, attributes)
            if attributes["size"] != [size]:
                raise ValueError(f"a size of {attributes['size']} for the shape {shape}")
            layouts.check(layout_name, packed, size)
        scales = _scales(_dense(given["scales"]), shape) if format.scaled else None

        def decode() -> Array:
            flat = values if packed is None else layouts.unpack(layout_name, packed, size)
            return restore(flat.reshape(shape), format, scales)

        return EncodedWeight(
            name=name,
            shape=shape,
            encoding=encoding,
            type=type_name(format.stored),
            active=int(np.count_nonzero(values)),
            bytes=sum(map(field_bytes, (node, *given.values()))),
            inputs=tuple(node.input),
            decode=decode,
        )

    def claim(self, shape: tuple[int, ...]) -> None:
        """Take a tensor of ``shape`` from what the bytes of the model justify.

        Raises:
            ValueError: that is used up, or a size is negative.
        """
        if any(size < 0 for size in shape):
            raise ValueError(f"a shape of {shape}")
        self._left -= math.prod(shape)
        if self._left < 0:
            raise ValueError(f"a shape of {shape}, for which the model has too few bytes")


def scopes(graph: onnx.GraphProto, outer: Scope | None = None) -> Iterator[tuple[onnx.GraphProto, Scope]]:
    """Yield a graph and those inside it, each with the constant tensors that its nodes can read."""
    own: dict[str, Source] = dict(outer or {})
    own |= {tensor.name: tensor for tensor in graph.initializer}
    own |= {tensor.values.name: tensor for tensor in graph.sparse_initializer}
    for value in graph.input:  # callers can replace an initializer that is an input too
        own.pop(value.name, None)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            own |= {name: x.t for x in node.attribute for name in node.output if x.name == "value"}
    yield graph, own
    for node in graph.node:
        for inner in subgraphs(node):
            yield from scopes(inner, own)


def array(tensor: TensorProto) -> Array:
    """Return the elements of a dense tensor from an untrusted file.

    Raises:
        ValueError: their number does not fit the shape, their type cannot be read, or they are in another file.
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
    """Count the elements that there are bytes for; of those that share bytes, as many as the shape says if it fits."""
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise UnknownTypeError(f"elements of {type_name(tensor.data_type)}") from error
    if tensor.data_type == TensorProto.STRING:
        return len(tensor.string_data)
    bits = _BITS.get(tensor.data_type, 8)
    if tensor.HasField("raw_data"):
        entries, size = len(tensor.raw_data), dtype.itemsize
        if entries % size:
            raise ValueError(f"{entries} bytes for elements of {size}")
        entries //= size
    else:
        entries = max(len(getattr(tensor, field)) for field in _FIELDS)
        entries = entries // 2 if dtype.kind == "c" else entries
        bits = 8 if bits == 6 else bits  # in lists of numbers those of 6 bits have one each
    claimed = math.prod(tensor.dims)
    return claimed if entries == -(-claimed * bits // 8) else entries * 8 // bits


def _dense(source: Source) -> Array:
    if isinstance(source, onnx.SparseTensorProto):
        raise ValueError("a sparse tensor where a dense one should be")
    return array(source)


def _packed(layout: DecoderLayout, positions: Source, values: Array, attributes: Mapping[str, list[int]]) -> Packed:
    found, expected = _dense(positions), helper.tensor_dtype_to_np_dtype(layout.type)
    if found.dtype != expected:
        raise ValueError(f"positions of type {found.dtype}; expected {expected}")
    if found.ndim != 1 or values.ndim != 1:
        raise ValueError("positions or values that have not one dimension")
    count = attributes.get("count", [found.size])
    if len(count) != 1:
        raise ValueError(f"a count of {count}")
    return Packed(found, count[0], values)


def _scales(scales: Array, shape: tuple[int, ...]) -> Array:
    fits = scales.ndim == len(shape) and all(a in (1, b) for a, b in zip(scales.shape, shape, strict=True))
    if scales.dtype != np.float32 or not fits:
        raise ValueError(f"scales of type {scales.dtype} and shape {scales.shape} for the shape {shape}")
    return scales


def _integers(attribute: onnx.AttributeProto) -> list[int]:
    if attribute.type != onnx.AttributeProto.INTS:
        raise ValueError(f"attribute {attribute.name!r} that is not a list of integers")
    return list(attribute.ints)
