"""Find the weights of a graph: the constants that its layers multiply by.

A weight may be an initializer, a sparse one, a constant, or computed by one of our decoders, and may pass operators on
its way to the layer that only change its shape or type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx

from exporters.encoding.decode import EncodedWeight, Source, WeightReader, scopes

_INPUTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "DeformConv", "FusedConv", "ConvInteger"), (1,)),
    **dict.fromkeys(("Gemm", "MatMul", "FusedMatMul", "MatMulInteger"), (1, 0)),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), (1, 2)),
    "QLinearConv": (3,),
    "QLinearMatMul": (3, 0),
}
"""The inputs of layers that are weights, or can be."""

_ALWAYS = ("Conv", "ConvTranspose", "DeformConv", "FusedConv", "ConvInteger", "QLinearConv", "Gemm")
"""The layers whose first such input is always a weight."""

_ZERO_POINTS: Mapping[tuple[str, int], int] = {
    ("ConvInteger", 1): 3,
    ("QLinearConv", 3): 5,
    ("MatMulInteger", 0): 2,
    ("MatMulInteger", 1): 3,
    ("QLinearMatMul", 0): 2,
    ("QLinearMatMul", 3): 5,
    ("DequantizeLinear", 0): 2,
}
"""For inputs of integers, the input with the integer that represents zero."""

_SAME_ZEROS = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear")
"""Operators that keep the zeros of a weight."""

_DOMAINS = ("", "ai.onnx", "com.microsoft")


class Operand(NamedTuple):
    """A weight of a graph.

    Attributes:
        name: of the tensor, or of the value that a node computes.
        source: how it is stored.
        zero: the constant with the integers that represent zero; None when 0 does.
    """

    name: str
    source: Source | EncodedWeight
    zero: Source | EncodedWeight | None


def operands(model: onnx.ModelProto, reader: WeightReader) -> tuple[list[Operand], list[EncodedWeight], int]:
    """Find the weights of ``model``, which may be untrusted.

    Returns:
        The weights, each once, in the order in which the graph uses them; all weights that decoders compute, used or
        not; and how many layers have a weight that is no constant.

    Raises:
        ModelError: decoders that granet did not write, or that are damaged.
    """
    seen = list(scopes(model.graph))
    producers = {name: node for graph, _ in seen for node in graph.node for name in node.output if name}
    decoders = {weight.name: weight for graph, scope in seen for weight in reader.decoders(graph, scope)}
    found: dict[int, Operand] = {}
    computed = 0
    for graph, scope in seen:
        constants = {**scope, **decoders}
        for node in graph.node:
            for position, index in enumerate(_INPUTS.get(node.op_type, ()) if node.domain in _DOMAINS else ()):
                operand = _trace(node, index, producers, constants)
                if operand is not None:
                    found.setdefault(id(operand.source), operand)
                elif position == 0 and node.op_type in _ALWAYS:
                    computed += 1
    return list(found.values()), list(decoders.values()), computed


def _trace(
    node: onnx.NodeProto,
    index: int,
    producers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, Source | EncodedWeight],
) -> Operand | None:
    """The constant that input ``index`` of ``node`` comes from; None when it comes from none."""
    zero = None
    passed = set()
    while index < len(node.input) and (name := node.input[index]) not in passed:
        passed.add(name)
        zero_point = _ZERO_POINTS.get((node.op_type, index))
        if zero_point is not None and zero_point < len(node.input):
            zero = constants.get(node.input[zero_point])
        if name in constants:
            return Operand(name, constants[name], zero)
        producer = producers.get(name)
        if producer is None or producer.op_type not in _SAME_ZEROS or producer.domain not in _DOMAINS:
            return None
        node, index = producer, 0
    return None
