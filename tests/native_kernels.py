"""The library of kernels by its plain C interface, and what it should compute: programs in float64, by torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from exporters.encoding import layouts
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
    Weight,
    WeightLayout,
    encode,
)

Array = NDArray[Any]
_ERROR_SIZE = 512
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3, np.dtype(np.float16): 10}
UINT4 = 21


class KernelError(Exception):
    """The library refused something."""


@dataclass
class Constant:
    """A constant input: its elements, and bytes in the memory format of ONNX Runtime."""

    type: int
    elements: int
    data: Array

    @classmethod
    def of(cls, array: Array) -> Constant:
        """Return an array as a constant; the dtype uint4 of ``ml_dtypes`` is packed two in a byte."""
        if array.dtype not in _TYPES:
            codes = array.astype(np.uint8)
            padded = np.append(codes, np.zeros(codes.size % 2, np.uint8))
            return cls(UINT4, codes.size, padded[0::2] | (padded[1::2] << 4))
        return cls(_TYPES[array.dtype], array.size, np.ascontiguousarray(array))


class Kernels:
    """An open library."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.granet_kernels_isa.restype = ctypes.c_char_p
        self._library.granet_kernels_close.argtypes = [ctypes.c_void_p]
        self._library.granet_kernels_close.restype = None

    def has(self, isa: str) -> bool:
        """Return whether this processor can run an instruction set."""
        return self._library.granet_kernels_isa(isa.encode()) is not None

    def open(self, integers: Sequence[int], constants: Sequence[Constant], isa: str | None = None) -> Island:
        """Open an island."""
        program = np.array(integers, np.int64)
        handle = ctypes.c_void_p()
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        count = len(constants)
        failed = self._library.granet_kernels_open(
            ctypes.c_void_p(program.ctypes.data),
            ctypes.c_size_t(program.size),
            (ctypes.c_int * count)(*(constant.type for constant in constants)),
            (ctypes.c_int64 * count)(*(constant.elements for constant in constants)),
            (ctypes.c_void_p * count)(*(constant.data.ctypes.data for constant in constants)),
            ctypes.c_size_t(count),
            isa.encode() if isa else None,
            ctypes.byref(handle),
            error,
            ctypes.c_size_t(_ERROR_SIZE),
        )
        if failed:
            raise KernelError(error.value.decode())
        return Island(self._library, handle)


class Island:
    """An open island; closed when it is collected."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def __del__(self) -> None:
        self._library.granet_kernels_close(self._handle)

    def run(self, inputs: Sequence[Array], shapes: Sequence[tuple[int, ...]], threads: int = 1) -> list[Array]:
        """Return outputs of the shapes, for one image, with the batch in front."""
        batch = inputs[0].shape[0]
        inputs = [np.ascontiguousarray(array, np.float32) for array in inputs]
        outputs = [np.full((batch, *shape), np.nan, np.float32) for shape in shapes]
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        failed = self._library.granet_kernels_run(
            self._handle,
            (ctypes.c_void_p * len(inputs))(*(array.ctypes.data for array in inputs)),
            (ctypes.c_void_p * len(outputs))(*(array.ctypes.data for array in outputs)),
            ctypes.c_int64(batch),
            ctypes.c_int(threads),
            error,
            ctypes.c_size_t(_ERROR_SIZE),
        )
        if failed:
            raise KernelError(error.value.decode())
        return outputs


class Constants:
    """The constants of a program under construction, and the weights that they stand for."""

    def __init__(self) -> None:
        self.stored: list[Array] = []
        self.values: dict[int, Array] = {}

    def add(self, array: Array) -> int:
        """Add a constant and return its number."""
        self.stored.append(array)
        return len(self.stored) - 1

    def add_weight(self, weight: Array, layout: WeightLayout, dtype: str = "float32", axis: int = 0) -> Weight:
        """Store a weight in a layout and number format."""
        scales = None
        if dtype == "int8":
            others = tuple(other for other in range(weight.ndim) if other != axis % weight.ndim)
            scales = (np.abs(weight).max(axis=others, keepdims=True) / 127).astype(np.float32)
            scales[scales == 0] = 1
        stored = np.rint(weight / scales).astype(np.int8) if scales is not None else weight.astype(dtype)
        exact = stored.astype(np.float32) * (1 if scales is None else scales)
        positions, count = NONE, 0
        if layout is WeightLayout.DENSE:
            values = self.add(stored)
        else:
            name = "".join(part.capitalize() for part in layout.name.split("_"))
            packed = layouts.pack(name, np.where(stored == 0, np.zeros((), stored.dtype), stored).reshape(-1))
            positions, values = self.add(packed.positions), self.add(packed.values)
            count = packed.entries if layout is WeightLayout.GAPS4_PACKED else 0
        made = Weight(
            layout=layout,
            positions=positions,
            values=values,
            scales=NONE if scales is None else self.add(scales),
            count=count,
        )
        self.values[values] = exact.astype(np.float64)
        return made

    @property
    def packed(self) -> list[Constant]:
        """All constants as the library takes them."""
        return [Constant.of(array) for array in self.stored]


def expected(program: Program, constants: Constants, inputs: Sequence[Array]) -> list[Array]:
    """Return what a program computes, in float64."""
    values = [torch.from_numpy(np.asarray(array, np.float64)) for array in inputs]
    for operation in program.operations:
        values.append(_compute(operation, constants, values))
    return [values[number].numpy() for number in program.outputs]


def _compute(operation: object, constants: Constants, values: list[torch.Tensor]) -> torch.Tensor:
    match operation:
        case Convolution():
            weight = torch.from_numpy(constants.values[operation.weight.values])
            bias = (
                None
                if operation.bias == NONE
                else torch.from_numpy(constants.stored[operation.bias].astype(np.float64))
            )
            padded = _padded(values[operation.input], operation.pads, 0.0)
            result = functional.conv2d(
                padded, weight, bias, operation.strides, 0, operation.dilations, operation.groups
            )
            if operation.residual != NONE:
                result = result + values[operation.residual]
            return _activated(result, operation.activation)
        case Linear():
            weight = torch.from_numpy(constants.values[operation.weight.values])
            weight = weight if operation.transposed else weight.T
            result = values[operation.input].flatten(1) @ weight
            if operation.bias != NONE:
                result = result + torch.from_numpy(constants.stored[operation.bias].astype(np.float64))
            return _activated(result, operation.activation)
        case Add():
            return _activated(values[operation.inputs[0]] + values[operation.inputs[1]], operation.activation)
        case Activate():
            return _activated(values[operation.input], operation.activation)
        case MaxPool():
            return _windows(operation, values[operation.input], -np.inf).amax(dim=2)
        case AveragePool():
            x = values[operation.input]
            counted = torch.ones_like(x)
            if operation.count_include_pad:
                counted = _padded(counted, operation.pads, 1.0)
                x = _padded(x, operation.pads, 0.0)
                operation = AveragePool(
                    input=0,
                    kernel=operation.kernel,
                    size=operation.size,
                    strides=operation.strides,
                    dilations=operation.dilations,
                )
            return _windows(operation, x, 0.0).sum(dim=2) / _windows(operation, counted, 0.0).sum(dim=2)
        case GlobalAverage():
            return values[operation.input].mean(dim=(2, 3), keepdim=True)
        case Concatenate():
            return torch.cat([values[number] for number in operation.inputs], dim=1)
        case Gate():
            return values[operation.input] * values[operation.gate]
        case Flatten():
            return values[operation.input].flatten(1)
    raise AssertionError(operation)


def _padded(x: torch.Tensor, pads: tuple[int, int, int, int], fill: float) -> torch.Tensor:
    top, left, bottom, right = pads
    return functional.pad(x, (left, right, top, bottom), value=fill)


def _windows(operation: MaxPool | AveragePool, x: torch.Tensor, fill: float) -> torch.Tensor:
    """[batch, channels, kernel, height, width]"""
    (rows, columns), (down, right), (height, width) = operation.kernel, operation.strides, operation.size
    far = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(operation.size, operation.strides, operation.kernel, operation.dilations, strict=True)
    ]
    top, left = operation.pads[:2]
    x = _padded(x, (top, left, max(0, far[0] - top - x.shape[2]), max(0, far[1] - left - x.shape[3])), fill)
    taps = [
        x[
            :,
            :,
            r * operation.dilations[0] : r * operation.dilations[0] + (height - 1) * down + 1 : down,
            c * operation.dilations[1] : c * operation.dilations[1] + (width - 1) * right + 1 : right,
        ]
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(taps, dim=2)


def _activated(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    match activation.kind:
        case Nonlinearity.RELU:
            return x.relu()
        case Nonlinearity.CLIP:
            return x.clamp(activation.low, activation.high)
        case Nonlinearity.SILU:
            return functional.silu(x)
        case Nonlinearity.HARD_SWISH:
            return functional.hardswish(x)
        case Nonlinearity.SIGMOID:
            return x.sigmoid()
        case Nonlinearity.HARD_SIGMOID:
            return (activation.low * x + activation.high).clamp(0, 1)
    return x


def check(
    kernels: Kernels, program: Program, constants: Constants, inputs: Sequence[Array], isa: str | None = None
) -> float:
    """Return the largest difference from float64 over the largest output; all threads must agree bit by bit."""
    wanted = expected(program, constants, inputs)
    island = kernels.open(encode(program), constants.packed, isa)
    shapes = [array.shape[1:] for array in wanted]
    found = island.run(inputs, shapes)
    for threads in (2, 3):
        again = island.run(inputs, shapes, threads)
        assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    worst = 0.0
    for array, right in zip(found, wanted, strict=True):
        assert np.isfinite(array).all()
        worst = max(worst, float(np.abs(array - right).max() / max(np.abs(right).max(), 1e-30)))
    return worst
