"""What goes into a graph in the place of one initializer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding import coo, decoder_functions, layouts, values
from exporters.encoding.decoder_functions import DOMAIN, LAYOUTS, Format
from exporters.encoding.values import Array, StoredValues

PLAIN, COO = "plain", "coo"
"""Besides the layouts: the initializer as it is, and the standard's sparse one."""


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """A tensor that can be encoded: as it is, and as it would be stored."""

    tensor: TensorProto
    plain: Array
    stored: StoredValues

    @classmethod
    def of(cls, tensor: TensorProto, precision: str, axis: int) -> EncodedWeight:
        """The weight in an initializer, whose output channels lie along ``axis``."""
        weight = numpy_helper.to_array(tensor)
        channels = axis % weight.ndim if weight.ndim > 1 else None
        return cls(tensor, weight, values.store(weight, precision, channels=channels, where=tensor.name))


@dataclass(frozen=True, eq=False)
class Parts:
    """Fields of a graph."""

    initializers: Sequence[TensorProto] = ()
    sparse: Sequence[onnx.SparseTensorProto] = ()
    nodes: Sequence[onnx.NodeProto] = ()

    @property
    def bytes(self) -> int:
        """What they take in a file."""
        fields: Sequence[Sequence[Any]] = (self.initializers, self.sparse, self.nodes)
        return sum(field_bytes(item.ByteSize()) for field in fields for item in field)


def decoder(way: str, form: Format) -> str | None:
    """The function that weights of a format need when they go ``way``: a layout, ``PLAIN`` or ``COO``."""
    if way == PLAIN or (way == COO and form.stored == form.weight):
        return None
    return decoder_functions.name_of("Dense" if way == COO else way, form)


def build(way: str, weight: EncodedWeight, taken: Collection[str]) -> Parts:
    """A weight that goes ``way``, under names that are not ``taken``."""
    if way == PLAIN:
        return Parts(initializers=[weight.tensor])
    name, stored, function = weight.tensor.name, weight.stored, decoder(way, weight.stored.format)
    if function is None:
        return Parts(sparse=[coo.sparse(name, stored.values)])

    def called(suffix: str) -> str:
        free = f"{name}/{suffix}"
        while free in taken:
            free += "_"
        return free

    layout = LAYOUTS["Dense" if way == COO else way]
    tensors: list[TensorProto] = []
    sparse: list[onnx.SparseTensorProto] = []
    attributes: dict[str, Any] = {}
    if way == COO:
        sparse = [coo.sparse(called("values"), stored.values)]
        inputs = [sparse[0].values.name]
    elif layout.positions is None:
        tensors = [numpy_helper.from_array(stored.values, called("values"))]
        inputs = [tensors[0].name]
    else:
        packed = layouts.pack(way, stored.values.reshape(-1))
        positions = TensorProto(
            name=called(layout.positions),
            data_type=layout.type,
            dims=[packed.entries if layout.type == TensorProto.UINT4 else packed.positions.size],
        )
        positions.raw_data = layouts.raw(layout.type, packed)
        tensors = [positions, numpy_helper.from_array(packed.values, called("values"))]
        inputs = [tensor.name for tensor in tensors]
        known = {"shape": list(stored.values.shape), "size": [stored.values.size], "count": [packed.entries]}
        attributes = {key: known[key] for key in layout.attributes}
    if stored.scales is not None:
        tensors.append(numpy_helper.from_array(stored.scales, called("scales")))
        inputs.append(tensors[-1].name)
    node = helper.make_node(function, inputs, [name], domain=DOMAIN, **attributes)
    return Parts(tensors, sparse, [node])


def field_bytes(size: int) -> int:
    """What a message of ``size`` bytes takes as a field: its number, its length and itself."""
    return 1 + max(math.ceil(size.bit_length() / 7), 1) + size
