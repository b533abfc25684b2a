"""Find the weights of a graph: the constants that its layers multiply by.

One walk in the order of the nodes goes into the graphs inside a graph, and into functions of the model at each call. It
knows by name what is constant there.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx
from onnx import TensorProto

from exporters import layer_weights
from exporters.constants import Constant, Constants, Part
from exporters.encoding.decode import WeightReader
from exporters.encoding.decoder_functions import DOMAIN
from exporters.layer_weights import WeightInput

Scope = MutableMapping[str, Constant | None]
"""The constants that nodes can read, by name; None for a name that hides one of an outer graph."""

Attributes = Mapping[str, onnx.AttributeProto]

_MOST_CALLS = 10_000
"""Calls of functions that are followed. Functions that call each other twice soon have more than anybody could."""

_DEEPEST_CALL = 40

_NO_WEIGHTS = (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL,
               TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)  # fmt: skip
"""Types of positions, shapes, masks and words."""


class Operand(NamedTuple):
    """A constant that a layer multiplies by.

    Attributes:
        constant: the weight.
        use: which input of the layer it is, and how it is stored there.
        inputs: all constant inputs of the layer, by their index.
        sizes: the attributes of the layer that are whole numbers.
        operator: of the layer, with its domain unless it is a standard one.
    """

    constant: Constant
    use: WeightInput
    inputs: Mapping[int, Constant]
    sizes: Mapping[str, int]
    operator: str


@dataclass
class FoundWeights:
    """What a walk finds.

    Attributes:
        operands: weights in the order in which the graph uses them, once for each use.
        inputs_of_decoders: names of the tensors that our decoders read.
        computed: how many layers have a weight that is no constant.
        readers: of each stored tensor that some node other than a layer reads, the operators of those nodes.
        numbers: of each operator of ``ai.onnx.ml`` that keeps a model in its attributes, how many numbers.
        not_followed: why function calls were not followed; None when all were.
    """

    operands: list[Operand] = field(default_factory=list)
    inputs_of_decoders: set[str] = field(default_factory=set)
    computed: int = 0
    readers: dict[int, tuple[Part, list[str]]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    not_followed: str | None = None


def find(model: onnx.ModelProto, reader: WeightReader, constants: Constants) -> FoundWeights:
    """Find the weights of ``model``, which may be untrusted.

    Raises:
        ModelError: decoders that granet did not write, or that are damaged.
    """
    walk = _Walk(model, reader, constants)
    scope: Scope = ChainMap()
    walk.graph(model.graph, scope, {}, _opset(model.opset_import), hidden=False)
    return walk.found


def could_be_weight(part: Part) -> bool:
    """Return whether a stored tensor has at least two dimensions larger than 1, and numbers that can be weights."""
    if isinstance(part, TensorProto):
        return part.data_type not in _NO_WEIGHTS and sum(size > 1 for size in part.dims) > 1
    shape: Iterable[int] = part.dims if isinstance(part, onnx.SparseTensorProto) else part.shape
    return sum(size > 1 for size in shape) > 1


class _Walk:
    def __init__(self, model: onnx.ModelProto, reader: WeightReader, constants: Constants) -> None:
        self.found = FoundWeights()
        self._reader, self._constants = reader, constants
        self._functions = {_identity(function, function.name): function for function in model.functions}
        self._calls: list[tuple[str, str, str]] = []
        self._followed = 0
        self._channels: dict[str, int] = {}

    def graph(self, graph: onnx.GraphProto, scope: Scope, attributes: Attributes, opset: int, *, hidden: bool) -> None:
        """Walk through a graph; ``hidden`` when a node feeds its inputs, so that no initializer is their default."""
        for tensor in graph.initializer:
            scope[tensor.name] = self._stored(tensor.name, tensor)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self._stored(sparse.values.name, sparse)
        for value in graph.input if hidden else ():
            scope[value.name] = None
        self._nodes(graph.node, scope, attributes, opset)
        for value in graph.output:
            self._read(scope.get(value.name), "the output of the graph")

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope, outer: Attributes, opset: int) -> None:
        self._channels |= layer_weights.blocked_channels(nodes)
        for node in nodes:
            attributes = _resolved(node.attribute, outer)
            inputs = [scope.get(name) if name else None for name in node.input]
            outputs: Sequence[Constant | None] = self._node(node, inputs, attributes, opset) or ()
            for index, name in enumerate(node.output):
                scope[name] = outputs[index] if index < len(outputs) else None
            for attribute in node.attribute:
                for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    # Names of an inner graph end with it.
                    self.graph(graph, ChainMap({}, *_maps(scope)), outer, opset, hidden=True)

    def _node(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Constant | None],
        attributes: Attributes,
        opset: int,
    ) -> Sequence[Constant | None] | None:
        """Note what a node reads; return its outputs where they are constant."""
        if node.domain == DOMAIN:
            given = {name: x.stored for name, x in zip(node.input, inputs, strict=True) if x is not None}
            tensors = {name: x for name, x in given.items() if isinstance(x, TensorProto | onnx.SparseTensorProto)}
            self.found.inputs_of_decoders.update(node.input)
            return [self._constants.decoded(self._reader.decoder(node, tensors))]
        function = self._functions.get(_identity(node, node.op_type))
        if function is not None:
            outputs = self._call(function, inputs, attributes)
            if outputs is not None:
                return outputs
        elif uses := layer_weights.find(node.domain, node.op_type, len(node.input)):
            self._layer(node, uses, inputs, attributes)
            return None
        elif node.domain in ("", "ai.onnx", "com.microsoft"):
            present = [x for x, name in zip(inputs, node.input, strict=True) if name]
            if None not in present and (made := self._constants.compute(node, inputs, attributes, opset)):
                return made
        for constant in inputs:
            self._read(constant, _operator(node))
        if node.domain == "ai.onnx.ml":
            count = sum(max(len(x.floats), len(x.t.float_data)) for x in attributes.values())
            self.found.numbers[node.op_type] = self.found.numbers.get(node.op_type, 0) + count
        return None

    def _layer(
        self,
        node: onnx.NodeProto,
        uses: Sequence[WeightInput],
        inputs: Sequence[Constant | None],
        attributes: Attributes,
    ) -> None:
        given = {index: x for index, x in enumerate(inputs) if x is not None}
        sizes = {name: x.i for name, x in attributes.items() if x.type == onnx.AttributeProto.INT}
        if node.output and node.output[0] in self._channels:
            sizes[layer_weights.CHANNELS] = self._channels[node.output[0]]
        found = [use for use in uses if use.index in given]
        for use in found:
            self.found.operands.append(Operand(given[use.index], use, given, sizes, _operator(node)))
        self.found.computed += not found and any(use.always for use in uses)

    def _call(
        self, function: onnx.FunctionProto, inputs: Sequence[Constant | None], attributes: Attributes
    ) -> list[Constant | None] | None:
        """Walk through a function with these inputs; None when it is not followed."""
        key = _identity(function, function.name)
        self._followed += 1
        if key in self._calls or len(self._calls) >= _DEEPEST_CALL or self._followed > _MOST_CALLS:
            self.found.not_followed = f"functions call each other too deep or too often, such as {function.name}"
            return None
        self._calls.append(key)
        scope: Scope = ChainMap(dict(zip(function.input, inputs, strict=False)))
        given = {x.name: x for x in function.attribute_proto} | dict(attributes)
        self._nodes(function.node, scope, given, _opset(function.opset_import))
        self._calls.pop()
        return [scope.get(name) for name in function.output]

    def _stored(self, name: str, source: TensorProto | onnx.SparseTensorProto) -> Constant:
        constant = self._constants.tensor(name, source)
        self.found.readers.setdefault(id(source), (source, []))
        return constant

    def _read(self, constant: Constant | None, operator: str) -> None:
        for part in constant.parts if constant is not None else ():
            readers = self.found.readers.setdefault(id(part), (part, []))[1]
            if operator not in readers:
                readers.append(operator)


def _maps(scope: Scope) -> list[MutableMapping[str, Constant | None]]:
    return scope.maps if isinstance(scope, ChainMap) else [scope]


def _resolved(attributes: Iterable[onnx.AttributeProto], outer: Attributes) -> dict[str, onnx.AttributeProto]:
    """Return attributes by name, those of the function's call in place of references to them."""
    found = {}
    for attribute in attributes:
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in outer:
            found[attribute.name] = onnx.AttributeProto()
            found[attribute.name].CopyFrom(outer[attribute.ref_attr_name])
            found[attribute.name].name = attribute.name
    return found


def _identity(what: onnx.NodeProto | onnx.FunctionProto, name: str) -> tuple[str, str, str]:
    domain = "" if what.domain == "ai.onnx" else what.domain
    return domain, name, what.overload


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    return max((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), default=1)
