"""Values of a graph that depend on no input, followed back through the operators that compute them to stored tensors.

Nothing is computed before it is asked for, and then within a budget: a small file can claim tensors of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.encoding.decode import EncodedWeight, Source, UnknownTypeError, WeightReader, array
from exporters.encoding.values import Array
from granet.errors import ModelError

Part = Source | EncodedWeight
"""What a constant is computed from: a stored tensor, or a weight that a decoder of ours computes."""

_DEEPEST = 64
"""Operators between a constant and the tensors that it is computed from."""

_LARGEST = 2**22
"""Elements that may be computed for one weight of any model, besides ``_TIMES`` for each of the model's bytes."""

_TIMES = 16

_STANDARD = ("", "ai.onnx")

_REARRANGED = frozenset([
    "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
])  # fmt: skip
"""Operators that keep the elements of their first input."""

_ELEMENTWISE = frozenset([
    "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Sign", "Round", "Floor",
    "Ceil", "Tanh", "Sigmoid", "Relu", "Clip", "Min", "Max", "Where", "Cast", "CastLike", "Equal", "Greater",
    "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Not", "QuantizeLinear", "DequantizeLinear",
])  # fmt: skip
"""Operators whose output has the shape that their inputs broadcast to."""

_SMALLER = frozenset([
    "Slice", "Split", "Shape", "Size", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1",
    "ReduceL2", "ReduceSumSquare",
])  # fmt: skip
"""Operators whose outputs have at most the elements of the first input."""

_SIZES: Mapping[str, Callable[[Sequence[Array], Mapping[str, Any]], int]] = {
    "Concat": lambda given, _: sum(x.size for x in given),
    "Expand": lambda given, _: math.prod(np.broadcast_shapes(given[0].shape, tuple(int(x) for x in given[1]))),
    "Tile": lambda given, _: given[0].size * math.prod(int(x) for x in given[1]),
    "ConstantOfShape": lambda given, _: math.prod(int(x) for x in given[0]),
    "Gather": lambda given, _: given[0].size * given[1].size,
}
"""Bounds of the elements that other operators compute, before they do."""

COMPUTED = _REARRANGED | _ELEMENTWISE | _SMALLER | _SIZES.keys()
"""The operators that a constant may come from."""

_FIRST_ONLY = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "Gather", "Slice", "Expand", "Tile", "CastLike", "Split")
)
"""Operators whose elements are those of the first input; the other inputs say how."""

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")

_OF_SHAPES = frozenset(("ConstantOfShape", "Shape", "Size"))
"""Operators whose elements are none of their inputs'."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class UncountableError(ValueError):
    """A constant that is in order, but that this version cannot compute, or not within its budget."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that depends on no input of the graph.

    Attributes:
        name: of the value.
        parts: what it is computed from, without scales, axes and the like; empty where nothing is stored.
        array: computes it.
        base: the constant with the same elements in another order, shape or type, nearest to what is stored.
        node: the node that computes it; None for a stored tensor.
        depth: how many nodes it is away from what is stored.
    """

    name: str
    parts: tuple[Part, ...]
    array: Callable[[], Array]
    base: Constant | None = None
    node: onnx.NodeProto | None = None
    depth: int = 0

    @property
    def origin(self) -> Constant:
        """The constant whose zeros count."""
        return self.base or self

    @property
    def stored(self) -> Part | None:
        """The tensor that this constant is; None for what nodes compute."""
        return self.parts[0] if self.node is None and self.parts else None


class Constants:
    """Makes the constants of one model, and limits what is computed for each weight."""

    def __init__(self, model: onnx.ModelProto, reader: WeightReader) -> None:
        self._reader = reader
        self._most = self._left = _TIMES * int(model.ByteSize()) + _LARGEST
        self._arrays: dict[int, tuple[Constant, tuple[Array, ...]]] = {}

    def forget(self) -> None:
        """Release what was computed for one weight, before the next."""
        self._arrays.clear()
        self._left = self._most

    def tensor(self, name: str, source: Source) -> Constant:
        """Return a stored tensor as a constant."""
        if isinstance(source, TensorProto):
            return Constant(name, (source,), lambda: _dense(source, name))
        return Constant(name, (source,), lambda: self._sparse(source, name))

    def decoded(self, weight: EncodedWeight) -> Constant:
        """Return what a decoder of ours computes as a constant."""
        return Constant(weight.name, (weight,), weight.decode)

    def compute(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Constant | None],
        attributes: Mapping[str, onnx.AttributeProto],
        opset: int,
    ) -> tuple[Constant, ...] | None:
        """Return the outputs of ``node``, whose ``inputs`` that are not left out are constants; None when unknown.

        Args:
            node: of the standard operators, or of ONNX Runtime's own versions of those.
            inputs: None where the node leaves one out.
            attributes: of the node, with those of a function call in place of references.
            opset: the version of the standard operators.
        """
        given = [x for x in inputs if x is not None]
        depth = max((x.depth for x in given), default=0) + 1
        if node.op_type == "Constant" and node.domain in _STANDARD:
            return self._constant(node, attributes)
        if node.op_type not in COMPUTED or depth > _DEEPEST or not given:
            return None
        data = [] if node.op_type in _OF_SHAPES else given[:1] if node.op_type in _FIRST_ONLY | _REARRANGED else given
        parts = tuple({id(part): part for x in data for part in x.parts}.values())
        made: list[Constant] = []
        base = given[0].origin if _keeps(node, inputs, attributes) else None

        def output(index: int) -> Callable[[], Array]:
            return lambda: self._run(made[0], node, inputs, attributes, opset)[index]

        for index, name in enumerate(node.output):
            made.append(Constant(name, parts, output(index), base=base, node=node, depth=depth))
        return tuple(made)

    def _constant(
        self, node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]
    ) -> tuple[Constant, ...] | None:
        name = node.output[0] if node.output else ""
        if "value" in attributes:
            return (self.tensor(name, attributes["value"].t),)
        if "sparse_value" in attributes:
            return (self.tensor(name, attributes["sparse_value"].sparse_tensor),)
        for key, kind in (("floats", np.float32), ("ints", np.int64), ("float", np.float32), ("int", np.int64)):
            if (attribute := attributes.get(f"value_{key}")) is not None:
                values = np.array(helper.get_attribute_value(attribute), kind)
                # The numbers as a tensor, which is what they are stored like.
                element = TensorProto.FLOAT if kind is np.float32 else TensorProto.INT64
                return (self.tensor(name, helper.make_tensor(name, element, values.shape, values.reshape(-1))),)
        return None

    def _sparse(self, tensor: onnx.SparseTensorProto, name: str) -> Array:
        self._take(math.prod(tensor.dims))
        return self._reader.sparse(tensor, name).decode()

    def _run(
        self,
        made: Constant,
        node: onnx.NodeProto,
        inputs: Sequence[Constant | None],
        attributes: Mapping[str, onnx.AttributeProto],
        opset: int,
    ) -> tuple[Array, ...]:
        known = self._arrays.get(id(made))
        if known is not None:
            return known[1]
        arrays = [None if x is None else x.array() for x in inputs]
        given = [x for x in arrays if x is not None]
        try:
            with np.errstate(all="ignore"):
                self._take(_size(node, given, attributes))
                outputs = _evaluate(node, arrays, attributes, opset)
        except UncountableError:
            raise
        except Exception as error:  # of operators for whose inputs anything may stand in an untrusted file
            raise UncountableError(f"{node.op_type}, which computes it, failed: {error}"[:200]) from error
        self._arrays[id(made)] = made, outputs
        return outputs

    def _take(self, elements: int) -> None:
        self._left -= elements
        if elements < 0 or self._left < 0:
            raise UncountableError(f"computing it takes more than {self._most:,} numbers")
        try:
            self._reader.claim((elements,))
        except ValueError as error:
            raise UncountableError("the model computes more numbers than its bytes justify") from error


def _dense(tensor: TensorProto, name: str) -> Array:
    try:
        return array(tensor)
    except UnknownTypeError as error:
        raise UncountableError(str(error)) from error
    except ValueError as error:
        raise ModelError("a tensor that is damaged", where=name, got=error) from error


def _keeps(
    node: onnx.NodeProto, inputs: Sequence[Constant | None], attributes: Mapping[str, onnx.AttributeProto]
) -> bool:
    """Return whether a node keeps how many elements are zero."""
    if node.op_type == "DequantizeLinear":
        return len(inputs) < 3 or inputs[2] is None
    if node.op_type == "Cast":
        return "to" in attributes and attributes["to"].i in _FLOATS
    return node.op_type in _REARRANGED


def _size(node: onnx.NodeProto, given: Sequence[Array], attributes: Mapping[str, Any]) -> int:
    if node.op_type in _SIZES:
        return _SIZES[node.op_type](given, attributes)
    if node.op_type in _QUANTIZED or node.op_type not in _ELEMENTWISE:
        return int(given[0].size)
    return math.prod(np.broadcast_shapes(*(x.shape for x in given)))


def _evaluate(
    node: onnx.NodeProto,
    arrays: Sequence[Array | None],
    attributes: Mapping[str, onnx.AttributeProto],
    opset: int,
) -> tuple[Array, ...]:
    from onnx.reference import ReferenceEvaluator

    names = [f"x{index}" if x is not None else "" for index, x in enumerate(arrays)]
    plain = helper.make_node(node.op_type, names, [f"y{index}" for index in range(len(node.output))])
    plain.attribute.extend(attributes.values())
    graph = helper.make_graph(
        [plain],
        "one",
        [onnx.ValueInfoProto(name=name) for name in names if name],
        [onnx.ValueInfoProto(name=name) for name in plain.output],
    )
    # Those of older versions, and ONNX Runtime's own, do the same where they are valid.
    version = max(opset, 21) if node.op_type in _QUANTIZED else opset
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    given = {name: x for name, x in zip(names, arrays, strict=True) if name}
    return tuple(np.asarray(x) for x in ReferenceEvaluator(model).run(None, given))
