"""Recognise in a graph what the sparse kernels compute: layers with their biases, sums and activations.

A unit is one operation of an island's program and the nodes that it stands for, such as Conv, Add and Relu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import helper

from exporters.islands.graph_view import GraphView
from granet.kernels import program
from granet.kernels.program import Activation, Nonlinearity, Operation, Pads, Pair, Shape, Weight

Numbers = Callable[[str], int]
"""Returns the number of a value in a program."""

Constants = Callable[[str], Weight]
"""Returns how a weight of the graph is stored, as numbers of constants in a program."""


@dataclass(frozen=True)
class Layer:
    """What a convolution or linear layer costs.

    Attributes:
        weight: name of its weight in the graph.
        nonzero: how many of the weights are not zero.
        size: how many weights there are.
        pixels: of one output channel; 1 for a linear layer.
        inputs: elements of one image that it reads.
        outputs: elements of one image that it writes.
        depthwise: whether each output channel reads one input channel.
    """

    weight: str
    nonzero: int
    size: int
    pixels: int
    inputs: int
    outputs: int
    depthwise: bool

    @property
    def density(self) -> float:
        """Weights that are not zero over all."""
        return self.nonzero / self.size


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One operation of a program, and the nodes of the graph that it stands for.

    Attributes:
        nodes: their indices, ascending.
        inputs: names of the values that it reads, without constants.
        output: name of the value that it computes.
        shape: of one image of that.
        constants: names of its weight and bias.
        operation: builds the operation from the numbers of values and constants.
        layer: what it costs, for convolutions and linear layers.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    output: str
    shape: Shape
    operation: Callable[[Numbers, Constants], Operation]
    constants: tuple[str, ...] = ()
    layer: Layer | None = None

    @property
    def position(self) -> int:
        """The index of the last node; units in this order are in topological order."""
        return self.nodes[-1]


@dataclass
class _Epilogue:
    """What follows a layer and is computed with it: a sum, then an activation."""

    output: str
    nodes: list[int] = field(default_factory=list)
    residual: str | None = None
    activation: Activation = field(default_factory=Activation)


def units(view: GraphView) -> list[Unit]:
    """Return the units of a graph in topological order; nodes that no operation computes are in none."""
    claimed: set[int] = set()
    found: list[Unit] = []
    # Layers first: they take sums and activations that would be operations of their own otherwise.
    for readers in (_LAYERS, _OTHERS):
        for index, node in enumerate(view.nodes):
            reader = readers.get(node.op_type)
            if reader is None or index in claimed:
                continue
            unit = reader(view, index, claimed)
            if unit is not None:
                claimed.update(unit.nodes)
                found.append(unit)
    return sorted(found, key=lambda unit: unit.position)


def _convolution(view: GraphView, index: int, claimed: set[int]) -> Unit | None:
    node, settings = view.nodes[index], _settings(view.nodes[index])
    source, weight, bias = _operands(node)
    read, made = view.shape(source), view.shape(node.output[0])
    window = _window(settings)
    if read is None or made is None or not made.height or window is None or not _constants_fit(view, weight, bias):
        return None
    groups, shape = _integer(settings, "group", 1), view.weight_shape(weight)
    if len(shape) != 4:
        return None
    kernel, strides, dilations, pads = window
    after = _epilogue(view, node.output[0], claimed, sums=True)
    constants = (weight, *([bias] if bias else []))

    def build(number: Numbers, stored: Constants) -> Operation:
        return program.Convolution(
            input=number(source),
            weight=stored(weight),
            channels=made.channels,
            kernel=kernel or (shape[2], shape[3]),
            bias=stored(bias).values if bias else program.NONE,
            residual=number(after.residual) if after.residual else program.NONE,
            groups=groups,
            strides=strides,
            dilations=dilations,
            pads=pads,
            activation=after.activation,
        )

    layer = Layer(
        weight=weight,
        nonzero=view.nonzero(weight),
        size=math.prod(shape),
        pixels=made.height * made.width,
        inputs=read.channels * read.height * read.width,
        outputs=made.channels * made.height * made.width,
        depthwise=groups == read.channels,
    )
    return Unit(
        nodes=tuple(sorted({index, *after.nodes})),
        inputs=(source, *([after.residual] if after.residual else [])),
        output=after.output,
        shape=made,
        operation=build,
        constants=constants,
        layer=layer,
    )


def _linear(view: GraphView, index: int, claimed: set[int]) -> Unit | None:
    node, settings = view.nodes[index], _settings(view.nodes[index])
    source, weight, bias = _operands(node)
    read, made = view.shape(source), view.shape(node.output[0])
    plain = not _integer(settings, "transA", 0) and all(
        settings[name].f == 1.0 for name in ("alpha", "beta") if name in settings
    )
    if read is None or made is None or read.height or not plain or not _constants_fit(view, weight, bias):
        return None
    shape, transposed = view.weight_shape(weight), not _integer(settings, "transB", 0)
    if len(shape) != 2 or (bias and view.weight_shape(bias) != (made.channels,)):
        return None
    after = _epilogue(view, node.output[0], claimed, sums=False)

    def build(number: Numbers, stored: Constants) -> Operation:
        return program.Linear(
            input=number(source),
            weight=stored(weight),
            features=made.channels,
            bias=stored(bias).values if bias else program.NONE,
            transposed=transposed,
            activation=after.activation,
        )

    layer = Layer(weight, view.nonzero(weight), math.prod(shape), 1, read.channels, made.channels, depthwise=False)
    return Unit(
        nodes=tuple(sorted({index, *after.nodes})),
        inputs=(source,),
        output=after.output,
        shape=made,
        operation=build,
        constants=(weight, *([bias] if bias else [])),
        layer=layer,
    )


def _add(view: GraphView, index: int, claimed: set[int]) -> Unit | None:
    first, second = view.nodes[index].input
    made = view.shape(view.nodes[index].output[0])
    if made is None or view.shape(first) != made or view.shape(second) != made:
        return None
    after = _epilogue(view, view.nodes[index].output[0], claimed, sums=False)
    return Unit(
        nodes=tuple(sorted({index, *after.nodes})),
        inputs=(first, second),
        output=after.output,
        shape=made,
        operation=lambda number, _: program.Add(inputs=(number(first), number(second)), activation=after.activation),
    )


def _activation_alone(view: GraphView, index: int, claimed: set[int]) -> Unit | None:
    source = view.nodes[index].input[0]
    made = view.shape(source)
    found = _activation(view, source, index, claimed)
    if made is None or found is None:
        return None
    activation, nodes, output = found
    return Unit(
        nodes=tuple(sorted(nodes)),
        inputs=(source,),
        output=output,
        shape=made,
        operation=lambda number, _: program.Activate(input=number(source), activation=activation),
    )


def _pool(view: GraphView, index: int, _claimed: set[int]) -> Unit | None:
    node, settings = view.nodes[index], _settings(view.nodes[index])
    source, made = node.input[0], view.shape(node.output[0])
    window = _window(settings)
    if view.shape(source) is None or made is None or not made.height or window is None or len(node.output) > 1:
        return None
    kernel, strides, dilations, pads = window
    if kernel is None or (_integer(settings, "ceil_mode", 0) and node.op_type == "AveragePool"):
        return None
    size = (made.height, made.width)

    def build(number: Numbers, _: Constants) -> Operation:
        if node.op_type == "MaxPool":
            return program.MaxPool(
                input=number(source), kernel=kernel, size=size, strides=strides, dilations=dilations, pads=pads
            )
        return program.AveragePool(
            input=number(source),
            kernel=kernel,
            size=size,
            strides=strides,
            dilations=dilations,
            pads=pads,
            count_include_pad=bool(_integer(settings, "count_include_pad", 0)),
        )

    return Unit(nodes=(index,), inputs=(source,), output=node.output[0], shape=made, operation=build)


def _global_average(view: GraphView, index: int, _claimed: set[int]) -> Unit | None:
    node, settings = view.nodes[index], _settings(view.nodes[index])
    source, made = node.input[0], view.shape(node.output[0])
    read = view.shape(source)
    if read is None or not read.height or made is None or not made.height:
        return None
    if node.op_type == "ReduceMean":
        given = view.setting(node.input[1]) if len(node.input) > 1 else settings.get("axes")
        axes = given.ints if isinstance(given, onnx.AttributeProto) else [] if given is None else given.reshape(-1)
        if sorted(int(axis) % 4 for axis in axes) != [2, 3]:
            return None
    return Unit(
        nodes=(index,),
        inputs=(source,),
        output=node.output[0],
        shape=made,
        operation=lambda number, _: program.GlobalAverage(input=number(source)),
    )


def _flatten(view: GraphView, index: int, _claimed: set[int]) -> Unit | None:
    node = view.nodes[index]
    source, read, made = node.input[0], view.shape(node.input[0]), view.shape(node.output[0])
    if read is None or not read.height or made is None or made.height:
        return None
    computed = node.op_type == "Reshape" and view.setting(node.input[1]) is None
    if made.channels != read.channels * read.height * read.width or computed:
        return None
    return Unit(
        nodes=(index,),
        inputs=(source,),
        output=node.output[0],
        shape=made,
        operation=lambda number, _: program.Flatten(input=number(source)),
    )


def _concatenation(view: GraphView, index: int, _claimed: set[int]) -> Unit | None:
    node = view.nodes[index]
    made, read = view.shape(node.output[0]), [view.shape(name) for name in node.input]
    if made is None or not made.height or _integer(_settings(node), "axis", 1) not in (1, -3):
        return None
    if any(shape is None or (shape.height, shape.width) != (made.height, made.width) for shape in read):
        return None
    names = tuple(node.input)
    return Unit(
        nodes=(index,),
        inputs=names,
        output=node.output[0],
        shape=made,
        operation=lambda number, _: program.Concatenate(inputs=tuple(map(number, names))),
    )


def _gate(view: GraphView, index: int, _claimed: set[int]) -> Unit | None:
    node = view.nodes[index]
    made = view.shape(node.output[0])
    for source, gate in (tuple(node.input), tuple(reversed(node.input))):
        factor = view.shape(gate)
        if made is None or not made.height or factor is None or view.shape(source) != made:
            continue
        if factor == Shape(channels=made.channels, height=1, width=1):
            return _gated(index, source, gate, node.output[0], made)
    return None


def _gated(index: int, source: str, gate: str, output: str, shape: Shape) -> Unit:
    return Unit(
        nodes=(index,),
        inputs=(source, gate),
        output=output,
        shape=shape,
        operation=lambda number, _: program.Gate(input=number(source), gate=number(gate)),
    )


def _epilogue(view: GraphView, output: str, claimed: set[int], *, sums: bool) -> _Epilogue:
    """Find the sum and the activation that are computed with the layer whose result is ``output``."""
    after = _Epilogue(output)
    reader = view.only_reader(output)
    if sums and reader is not None and reader not in claimed and view.nodes[reader].op_type == "Add":
        first, second = view.nodes[reader].input
        other = second if first == output else first
        if first != second and view.shape(other) is not None and view.shape(other) == view.shape(output):
            after = _Epilogue(view.nodes[reader].output[0], [reader], other)
    for reader in view.readers.get(after.output, []):
        found = _activation(view, after.output, reader, claimed)
        if found is not None:
            after.activation, nodes, after.output = found
            after.nodes += nodes
            break
    return after


def _activation(
    view: GraphView, source: str, index: int, claimed: set[int]
) -> tuple[Activation, list[int], str] | None:
    """Return the activation of ``source`` that begins with a node, its nodes and its output.

    None if the node is none, belongs to another unit, or others read ``source`` as well.
    """
    node = view.nodes[index]
    others = set(view.readers[source]) - {index}
    if index in claimed or source in view.outputs:
        return None
    if node.op_type == "Sigmoid" and (product := view.only_reader(node.output[0])) is not None:
        times = view.nodes[product]
        if times.op_type == "Mul" and set(times.input) == {source, node.output[0]} and others == {product}:
            return Activation(kind=Nonlinearity.SILU), [index, product], times.output[0]
    reads = _SIMPLE.get(node.op_type)
    activation = reads(view, node) if reads is not None and node.input[0] == source else None
    return None if others or activation is None else (activation, [index], node.output[0])


def _clip(view: GraphView, node: onnx.NodeProto) -> Activation | None:
    bounds = []
    for place, missing in ((1, -math.inf), (2, math.inf)):
        name = node.input[place] if len(node.input) > place else ""
        value = view.setting(name) if name else None
        if name and (value is None or value.size != 1):
            return None
        bounds.append(missing if value is None else float(value.reshape(-1)[0]))
    return Activation(kind=Nonlinearity.CLIP, low=bounds[0], high=bounds[1])


def _hard_sigmoid(_view: GraphView, node: onnx.NodeProto) -> Activation:
    settings = _settings(node)
    slope = settings["alpha"].f if "alpha" in settings else 0.2
    return Activation(kind=Nonlinearity.HARD_SIGMOID, low=slope, high=settings["beta"].f if "beta" in settings else 0.5)


_SIMPLE: Mapping[str, Callable[[GraphView, onnx.NodeProto], Activation | None]] = {
    "Relu": lambda *_: Activation(kind=Nonlinearity.RELU),
    "Sigmoid": lambda *_: Activation(kind=Nonlinearity.SIGMOID),
    "HardSwish": lambda *_: Activation(kind=Nonlinearity.HARD_SWISH),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
}

_Reader = Callable[[GraphView, int, set[int]], Unit | None]

_LAYERS: Mapping[str, _Reader] = {"Conv": _convolution, "Gemm": _linear, "MatMul": _linear}
_OTHERS: Mapping[str, _Reader] = {
    "Add": _add,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "ReduceMean": _global_average,
    "GlobalAveragePool": _global_average,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Concat": _concatenation,
    "Mul": _gate,
    **dict.fromkeys(_SIMPLE, _activation_alone),
}


def _operands(node: onnx.NodeProto) -> tuple[str, str, str]:
    """The input, the weight and the bias of a layer; '' for a bias that is not there."""
    source, weight, *bias = node.input
    return source, weight, bias[0] if bias else ""


def _constants_fit(view: GraphView, weight: str, bias: str) -> bool:
    return view.is_weight(weight) and (not bias or (bias in view.tensors and view.is_weight(bias)))


def _settings(node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _integer(settings: Mapping[str, onnx.AttributeProto], name: str, default: int) -> int:
    return int(settings[name].i) if name in settings else default


def _window(settings: Mapping[str, onnx.AttributeProto]) -> tuple[Pair | None, Pair, Pair, Pads] | None:
    """Kernel (None when it is not declared), strides, dilations and pads of two dimensions; None for others."""

    def integers(name: str, default: tuple[int, ...]) -> Iterator[int]:
        yield from (int(value) for value in settings[name].ints) if name in settings else default

    automatic = helper.get_attribute_value(settings["auto_pad"]) if "auto_pad" in settings else b"NOTSET"
    if automatic not in (b"NOTSET", b"VALID"):
        return None
    kernel, strides, dilations = (tuple(integers(n, (1, 1))) for n in ("kernel_shape", "strides", "dilations"))
    pads = tuple(integers("pads", (0, 0, 0, 0)))
    if any(len(pair) != 2 for pair in (kernel, strides, dilations)) or len(pads) != 4:
        return None
    declared = (kernel[0], kernel[1]) if "kernel_shape" in settings else None
    return declared, (strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1], pads[2], pads[3])
