"""Programs of islands: a chain of layers as the list of integers that the native library executes.

An island is one node of the domain ``ai.granet`` named ``Island0`` to ``Island63``. Its inputs are the data, then the
constants; its only attribute, ``program``, is what :func:`encode` returns. ``kernels/README.md`` describes it all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

DOMAIN = "ai.granet"
ATTRIBUTE = "program"
FORMAT = 1
"""The first integer of a program. A program that means something else gets another number."""

ISLANDS = 64
"""How many operator names there are: ``Island0`` to ``Island63``, all of one implementation."""

NONE = -1
"""In place of a value or a constant that is not there."""

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Top, left, bottom, right, as in ONNX."""


def island_name(number: int) -> str:
    """Return the operator name of island ``number``, 0 to 63."""
    if not 0 <= number < ISLANDS:
        raise ValueError(f"an island's number is 0 to {ISLANDS - 1}; got {number}")
    return f"Island{number}"


class WeightLayout(IntEnum):
    """Where the values of a weight belong; the names are those of ``exporters.encoding``."""

    DENSE = 0
    GAPS8_STEPS = 1
    GAPS8 = 2
    GAPS4 = 3
    GAPS4_PACKED = 4
    BITMASK = 5


class Nonlinearity(IntEnum):
    """Element-wise functions; those of the standard operators of these names."""

    NONE = 0
    RELU = 1
    CLIP = 2
    SILU = 3
    HARD_SWISH = 4
    SIGMOID = 5
    HARD_SIGMOID = 6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One image of a value: channels, height, width; a matrix [batch, channels] has height and width 0."""

    channels: int
    height: int = 0
    width: int = 0

    def record(self) -> list[int]:
        """Return channels, height, width."""
        return [self.channels, self.height, self.width]


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A function of each element; ``low`` and ``high`` are the bounds of CLIP, else alpha and beta of HARD_SIGMOID."""

    kind: Nonlinearity = Nonlinearity.NONE
    low: float = 0.0
    high: float = 0.0

    def record(self) -> list[int]:
        """Return kind, low, high; the last two as the bits of fp32 numbers."""
        return [int(self.kind), _bits(self.low), _bits(self.high)]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """How a weight is stored; fields are numbers of constants, NONE where there is none.

    Attributes:
        layout: where values belong.
        positions: codes, steps or bytes; NONE for DENSE.
        values: fp32, fp16 or int8, with the zeros that the layout adds.
        scales: fp32, one for each output channel; for int8 values alone.
        count: the number of codes of GAPS4_PACKED, else 0.
    """

    layout: WeightLayout
    values: int
    positions: int = NONE
    scales: int = NONE
    count: int = 0

    def record(self) -> list[int]:
        """Return layout, positions, values, scales, count."""
        return [int(self.layout), self.positions, self.values, self.scales, self.count]


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Activation of (convolution + bias + residual). The weight is [channels, inputs / groups, *kernel]."""

    input: int
    weight: Weight
    channels: int
    kernel: Pair
    bias: int = NONE
    residual: int = NONE
    groups: int = 1
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    activation: Activation = Activation()

    code = 1

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        window = [*self.kernel, *self.strides, *self.dilations, *self.pads]
        names = [self.input, self.residual, self.bias]
        return [*names, self.channels, self.groups, *window, *self.weight.record(), *self.activation.record()]


@dataclass(frozen=True, kw_only=True)
class Add:
    """Activation of the sum of two values of one shape."""

    inputs: Pair
    activation: Activation = Activation()

    code = 2

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return [*self.inputs, *self.activation.record()]


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Activation of a value."""

    input: int
    activation: Activation

    code = 3

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return [self.input, *self.activation.record()]


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Largest element of each window; ``size`` is height and width of the result, so that no rounding is left open."""

    input: int
    kernel: Pair
    size: Pair
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)

    code = 4

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return [self.input, *self.kernel, *self.strides, *self.dilations, *self.pads, *self.size]


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """Mean of each window; pads count as zeros when ``count_include_pad``, else only what lies inside is averaged."""

    input: int
    kernel: Pair
    size: Pair
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    count_include_pad: bool = False

    code = 5

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        window = [*self.kernel, *self.strides, *self.dilations, *self.pads, *self.size]
        return [self.input, *window, int(self.count_include_pad)]


@dataclass(frozen=True, kw_only=True)
class GlobalAverage:
    """Mean of each channel, of height and width 1."""

    input: int

    code = 6

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return [self.input]


@dataclass(frozen=True, kw_only=True)
class Concatenate:
    """Values of equal height and width, one behind the other by channel."""

    inputs: tuple[int, ...]

    code = 7

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return list(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Activation of (weight times the flattened ``input`` + bias), a matrix [batch, features].

    The weight is [features, inputs], or [inputs, features] when ``transposed``, as in the product x W.
    """

    input: int
    weight: Weight
    features: int
    bias: int = NONE
    transposed: bool = False
    activation: Activation = Activation()

    code = 8

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        fields = [self.input, self.bias, self.features, int(self.transposed)]
        return [*fields, *self.weight.record(), *self.activation.record()]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Product of a value and a factor for each of its channels, as in squeeze-and-excitation."""

    input: int
    gate: int

    code = 9

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return [self.input, self.gate]


@dataclass(frozen=True, kw_only=True)
class Flatten:
    """A value as a matrix [batch, channels * height * width], by channel, row, column."""

    input: int

    code = 10

    def record(self) -> list[int]:
        """Return the fields in the order of the format."""
        return [self.input]


Operation = Convolution | Add | Activate | MaxPool | AveragePool | GlobalAverage | Concatenate | Linear | Gate | Flatten


@dataclass(frozen=True, kw_only=True)
class Program:
    """An island.

    Values are numbered: the inputs from 0, then what each operation computes, in order. An operation uses values of
    smaller numbers only. Constants are numbered from 0 in the order of the node's inputs behind the data.

    Attributes:
        inputs: shapes of the data inputs.
        constants: how many constants the node has.
        operations: what to compute.
        outputs: numbers of the values that the node returns.
    """

    inputs: tuple[Shape, ...]
    constants: int
    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]


def encode(program: Program) -> list[int]:
    """Return the value of the attribute ``program``."""
    head = [FORMAT, len(program.inputs), program.constants, len(program.operations), len(program.outputs)]
    shapes = [number for shape in program.inputs for number in shape.record()]
    records: list[int] = []
    for operation in program.operations:
        fields = operation.record()
        records += [operation.code, len(fields), *fields]
    return [*head, *shapes, *records, *program.outputs]


def _bits(number: float) -> int:
    """Return the bits of the fp32 number nearest to ``number``, 0 to 2^32 - 1."""
    return int(struct.unpack("<I", struct.pack("<f", number))[0])
