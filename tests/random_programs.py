"""Random islands, small and of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from granet.kernels.program import (
    NONE,
    Activate,
    Activation,
    Add,
    AveragePool,
    Concatenate,
    Convolution,
    Flatten,
    Gate,
    GlobalAverage,
    Linear,
    MaxPool,
    Nonlinearity,
    Program,
    Shape,
    WeightLayout,
)
from tests.native_kernels import Constants

Array = NDArray[Any]


def activation(rng: np.random.Generator) -> Activation:
    """Return any activation."""
    kind = Nonlinearity(int(rng.integers(len(Nonlinearity))))
    bounds = {Nonlinearity.CLIP: (-0.5, 0.75), Nonlinearity.HARD_SIGMOID: (0.25, 0.5)}.get(kind, (0.0, 0.0))
    return Activation(kind=kind, low=bounds[0], high=bounds[1])


def sparse_weight(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """Return fp32 numbers, of which a share is not zero."""
    weight = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < density, weight, np.float32(0))


def layer(rng: np.random.Generator, largest: int = 67) -> tuple[Program, Constants, list[Array]]:
    """Return one convolution, perhaps with a residual, and inputs for it."""
    constants = Constants()
    height, width = (int(size) for size in rng.integers(1, largest + 1, 2))
    kernel = tuple(int(k) for k in rng.choice([1, 1, 2, 3, 3, 3, 5, 7], 2))
    if rng.random() < 0.6:
        kernel = (kernel[0], kernel[0])
    strides = tuple(int(s) for s in rng.choice([1, 1, 1, 2, 2, 3], 2))
    dilations = tuple(int(d) for d in rng.choice([1, 1, 1, 2, 3], 2))
    pads = tuple(int(p) for p in rng.integers(0, 4, 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height, width = max(height, reach[0] - pads[0] - pads[2], 1), max(width, reach[1] - pads[1] - pads[3], 1)
    groups = int(rng.choice([1, 1, 1, 2, 3, 8]))
    in_group, out_group = int(rng.integers(1, 9)), int(rng.choice([1, 2, 5, 9, 40]))
    if rng.random() < 0.2:
        in_group = out_group = 1
    ins, outs = in_group * groups, out_group * groups
    out = [
        (size + a + b - r) // s + 1
        for size, a, b, r, s in zip((height, width), pads[:2], pads[2:], reach, strides, strict=True)
    ]
    batch = int(rng.choice([1, 1, 2, 3, 5]))
    density = float(rng.choice([0, 0.02, 0.1, 0.3, 1]))
    weight = constants.add_weight(
        sparse_weight(rng, (outs, in_group, *kernel), density),
        WeightLayout(int(rng.integers(len(WeightLayout)))),
        str(rng.choice(["float32", "float32", "float16", "int8"])),
    )
    inputs = [rng.standard_normal((batch, ins, height, width)).astype(np.float32)]
    shapes = [Shape(channels=ins, height=height, width=width)]
    residual = NONE
    if rng.random() < 0.4:
        residual = 1
        inputs.append(rng.standard_normal((batch, outs, *out)).astype(np.float32))
        shapes.append(Shape(channels=outs, height=out[0], width=out[1]))
    bias = constants.add(rng.standard_normal(outs).astype(np.float32)) if rng.random() < 0.7 else NONE
    convolution = Convolution(
        input=0,
        weight=weight,
        channels=outs,
        kernel=kernel,
        bias=bias,
        residual=residual,
        groups=groups,
        strides=strides,
        dilations=dilations,
        pads=pads,
        activation=activation(rng),
    )
    program = Program(
        inputs=tuple(shapes), constants=len(constants.stored), operations=(convolution,), outputs=(len(shapes),)
    )
    return program, constants, inputs


def chain(rng: np.random.Generator) -> tuple[Program, Constants, list[Array]]:
    """Return an island of many operations, with several outputs, and inputs for it."""
    constants = Constants()
    shapes: list[tuple[int, ...]] = [(int(rng.integers(1, 20)), int(rng.integers(1, 30)), int(rng.integers(1, 30)))]
    batch = int(rng.choice([1, 2, 5, 17]))
    inputs = [rng.standard_normal((batch, *shapes[0])).astype(np.float32)]
    operations: list[Any] = []

    def add(operation: Any, shape: tuple[int, ...]) -> None:
        operations.append(operation)
        shapes.append(shape)

    def weight(shape: tuple[int, ...], axis: int = 0) -> Any:
        scaled = sparse_weight(rng, shape, float(rng.choice([0, 0.1, 0.5, 1]))) / np.float32(np.sqrt(shape[-1] * 3))
        layout = WeightLayout(int(rng.integers(len(WeightLayout))))
        return constants.add_weight(scaled, layout, str(rng.choice(["float32", "float16", "int8"])), axis)

    for _ in range(int(rng.integers(1, 12))):
        number = int(rng.integers(max(0, len(shapes) - 3), len(shapes)))
        shape = shapes[number]
        kind = int(rng.integers(0, 11))
        same = [i for i, other in enumerate(shapes) if other == shape]
        if kind <= 4 and len(shape) == 3:
            channels, k = int(rng.integers(1, 70)), int(rng.choice([1, 1, 3, 5]))
            stride = int(rng.choice([1, 1, 2]))
            groups = 1
            if rng.random() < 0.2:
                channels = groups = shape[0]
            out = tuple((size + 2 * (k // 2) - k) // stride + 1 for size in shape[1:])
            residuals = [i for i, other in enumerate(shapes) if other == (channels, *out)]
            if rng.random() < 0.5 and shape[0] < 70:  # a chance for residuals
                residuals = residuals or []
            operation = Convolution(
                input=number,
                weight=weight((channels, shape[0] // groups, k, k)),
                channels=channels,
                kernel=(k, k),
                bias=constants.add(rng.standard_normal(channels).astype(np.float32)),
                residual=int(rng.choice(residuals)) if residuals and rng.random() < 0.6 else NONE,
                groups=groups,
                strides=(stride, stride),
                pads=(k // 2,) * 4,
                activation=activation(rng),
            )
            add(operation, (channels, *out))
            if rng.random() < 0.5:  # back to where a residual can be added
                pair = Convolution(
                    input=len(shapes) - 1,
                    weight=weight((channels, channels, 3, 3)),
                    channels=channels,
                    kernel=(3, 3),
                    residual=len(shapes) - 1 if rng.random() < 0.5 else NONE,
                    pads=(1, 1, 1, 1),
                    activation=activation(rng),
                )
                add(pair, (channels, *out))
        elif kind == 5:
            add(Add(inputs=(number, int(rng.choice(same))), activation=activation(rng)), shape)
        elif kind == 6:
            add(Activate(input=number, activation=activation(rng)), shape)
        elif kind == 7 and len(shape) == 3:
            k, stride = int(rng.integers(1, 4)), int(rng.integers(1, 3))
            pad = k // 2 if rng.random() < 0.5 else 0
            if min(shape[1:]) + 2 * pad < k:
                continue
            size = tuple((extent + 2 * pad - k) // stride + 1 for extent in shape[1:])
            common = {"input": number, "kernel": (k, k), "size": size, "strides": (stride, stride), "pads": (pad,) * 4}
            pool: Any = MaxPool(**common)
            if rng.random() < 0.5:
                pool = AveragePool(**common, count_include_pad=bool(rng.random() < 0.5))
            add(pool, (shape[0], *size))
        elif kind == 8 and len(shape) == 3:
            add(GlobalAverage(input=number), (shape[0], 1, 1))
            if rng.random() < 0.5:
                add(Activate(input=len(shapes) - 1, activation=Activation(kind=Nonlinearity.SIGMOID)), (shape[0], 1, 1))
                add(Gate(input=number, gate=len(shapes) - 1), shape)
        elif kind == 9:
            others = [i for i, other in enumerate(shapes) if other[1:] == shape[1:]]
            chosen = tuple(int(i) for i in rng.choice(others, int(rng.integers(1, 4))))
            add(Concatenate(inputs=chosen), (sum(shapes[i][0] for i in chosen), *shape[1:]))
        elif kind == 10:
            size = int(np.prod(shape))
            if rng.random() < 0.3:
                add(Flatten(input=number), (size,))
            else:
                features, transposed = int(rng.integers(1, 150)), bool(rng.random() < 0.5)
                operation = Linear(
                    input=number,
                    weight=weight((size, features) if transposed else (features, size), 1 if transposed else 0),
                    features=features,
                    bias=constants.add(rng.standard_normal(features).astype(np.float32)),
                    transposed=transposed,
                    activation=activation(rng),
                )
                add(operation, (features,))
    outputs = (*map(int, rng.choice(len(shapes), min(len(shapes), 2), replace=False)), len(shapes) - 1)
    first = Shape(channels=shapes[0][0], height=shapes[0][1], width=shapes[0][2])
    program = Program(inputs=(first,), constants=len(constants.stored), operations=tuple(operations), outputs=outputs)
    return program, constants, inputs
