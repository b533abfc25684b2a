"""Which constants of a graph are weights: what its layers multiply by.

A weight may be an initializer, a sparse one, a constant, or made by one of our decoders, and may pass operators on its
way to the layer that only change its shape or type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from exporters.encoding.decode import Decoder, Scope, Source, WeightReader, is_decoder_domain, scopes

_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "FusedConv": (1,),
    "ConvInteger": (1,),
    "QLinearConv": (3,),
    "Gemm": (1, 0),
    "MatMul": (1, 0),
    "FusedMatMul": (1, 0),
    "MatMulInteger": (1, 0),
    "QLinearMatMul": (3, 0),
    "RNN": (1, 2),
    "GRU": (1, 2),
    "LSTM": (1, 2),
}
"""The inputs of layers that are weights, or can be."""

_ALWAYS = ("Conv", "ConvTranspose", "DeformConv", "FusedConv", "ConvInteger", "QLinearConv", "Gemm")
"""Those of them whose first such input is always one."""

_ZERO_POINTS: Mapping[tuple[str, int], int] = {
    ("ConvInteger", 1): 3,
    ("QLinearConv", 3): 5,
    ("MatMulInteger", 0): 2,
    ("MatMulInteger", 1): 3,
    ("QLinearMatMul", 0): 2,
    ("QLinearMatMul", 3): 5,
    ("DequantizeLinear", 0): 2,
}
"""For inputs of integers, the input that says which integer stands for zero."""

_THROUGH = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear")
"""Operators behind which a weight has the same zeros."""

_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True, eq=False)
class Operand:
    """A weight of a graph.

    Attributes:
        name: of the tensor, or of what a node makes.
        source: what it is stored as.
        zero: a constant that says which integers stand for zero; None when 0 does.
    """

    name: str
    source: Source | Decoder
    zero: Source | None


@dataclass(frozen=True, eq=False)
class Operands:
    """The weights of a model.

    Attributes:
        found: each once, in the order in which the graph uses them.
        decoders: everything that our decoders make, used or not.
        computed: layers whose weight is no constant.
    """

    found: tuple[Operand, ...]
    decoders: tuple[Decoder, ...]
    computed: int


def operands(model: onnx.ModelProto, reader: WeightReader) -> Operands:
    """The weights of ``model``, which may come from anybody.

    Raises:
        ModelError: decoders that granet did not write, or that are damaged.
    """
    seen = list(scopes(model.graph))
    makers = {name: node for graph, _ in seen for node in graph.node for name in node.output if name}
    decoders = {
        node.output[0]: reader.decoder(node, scope)
        for graph, scope in seen
        for node in graph.node
        if is_decoder_domain(node.domain) and node.output
    }
    found: dict[int, Operand] = {}
    computed = 0
    for graph, scope in seen:
        for node in graph.node:
            for position, index in enumerate(_INPUTS.get(node.op_type, ()) if node.domain in _DOMAINS else ()):
                operand = _trace(node, index, makers, scope, decoders)
                if operand is not None:
                    found.setdefault(id(operand.source), operand)
                elif position == 0 and node.op_type in _ALWAYS:
                    computed += 1
    return Operands(tuple(found.values()), tuple(decoders.values()), computed)


def _trace(
    node: onnx.NodeProto,
    index: int,
    makers: Mapping[str, onnx.NodeProto],
    scope: Scope,
    decoders: Mapping[str, Decoder],
) -> Operand | None:
    """The constant that input ``index`` of ``node`` comes from; None when it comes from none."""
    zero = None
    passed = set()
    while index < len(node.input) and (name := node.input[index]) not in passed:
        passed.add(name)
        at = _ZERO_POINTS.get((node.op_type, index))
        if at is not None and at < len(node.input):
            zero = scope.get(node.input[at])
        source = decoders.get(name) or scope.get(name)
        if source is not None:
            return Operand(name, source, zero)
        maker = makers.get(name)
        if maker is None or maker.op_type not in _THROUGH or maker.domain not in _DOMAINS:
            return None
        node, index = maker, 0
    return None
