"""Count how many elements of a weight are not zero, and describe how it is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.constants import Constant, Part, UncountableError
from exporters.encoding.decode import EncodedWeight, WeightReader
from exporters.encoding.values import Array, type_name
from exporters.graphs import field_bytes
from exporters.weight_tensors import Operand
from granet.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class WeightReport:
    """One weight of two dimensions or more.

    Attributes:
        name: of the tensor, or of the value that nodes compute from several.
        shape: as it is stored; of a weight whose elements share bytes, as it is multiplied by.
        parameters: how many elements it has.
        active: how many of them are not zero, or not the integer that represents zero.
        density: active over parameters, 0 to 1; 1 where there are no parameters.
        encoding: dense; packed, in an order of its operator's own or several elements to a byte; coo, the standard's
            sparse tensor; or one of ours, gaps8, gaps4 or bitmask.
        type: of the stored values, such as fp32, bf16 or int8.
        bytes: what it takes in the file, nodes and names included.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    active: int
    density: float
    encoding: str
    type: str
    bytes: int


def count(operand: Operand, reader: WeightReader) -> WeightReport:
    """Return the report on a weight.

    Raises:
        UncountableError: nothing is wrong with it, but this version cannot count it.
        ModelError: it is damaged.
    """
    origin = operand.constant.origin
    try:
        report = _count(operand, origin, reader)
        if len(report.shape) < 2 and operand.constant is not origin:  # a matrix stored as a list
            return replace(report, shape=operand.constant.array().shape)
        return report
    except UncountableError:
        raise
    except ValueError as error:
        raise ModelError("a tensor that is damaged", where=origin.name, got=error) from error


def _count(operand: Operand, origin: Constant, reader: WeightReader) -> WeightReport:
    if operand.use.unpack is not None:
        arrays = {index: x.array() for index, x in operand.inputs.items()}
        shape, active, kind = operand.use.unpack(arrays, operand.sizes)
        return _report(origin, shape, active, kind, "packed")
    zeros = _zeros(operand)
    stored = origin.stored
    if isinstance(stored, onnx.SparseTensorProto) and zeros is None:
        stored = reader.sparse(stored, origin.name)
    if isinstance(stored, EncodedWeight) and zeros is None:
        return _report(origin, stored.shape, stored.active, stored.type, stored.encoding)
    if zeros is None:
        values = origin.array()
        active = int(np.count_nonzero(values))
    else:
        values = operand.constant.array()
        active = int(np.count_nonzero(values.astype(np.int64) != zeros))
    main = main_part(origin, values.size)
    kind = type_name(helper.np_dtype_to_tensor_dtype(values.dtype) if main is None else _type(main))
    shape = values.shape
    if isinstance(main, TensorProto) and math.prod(main.dims) == values.size:
        shape = tuple(main.dims)
    return _report(origin, shape, active, kind, "coo" if isinstance(main, onnx.SparseTensorProto) else "dense")


def main_part(constant: Constant, size: int) -> Part | None:
    """Return the stored tensor that gives a constant of ``size`` elements its name; None where no single one does."""
    fitting = [part for part in constant.parts if _size(part) == size]
    floats = [part for part in fitting if not isinstance(part, TensorProto) or part.data_type != TensorProto.BOOL]
    return next(iter(floats or fitting), None)


def part_name(part: Part) -> str:
    """Return the name of a stored tensor."""
    return part.values.name if isinstance(part, onnx.SparseTensorProto) else part.name


def part_shape(part: Part) -> tuple[int, ...]:
    """Return the shape of a stored tensor."""
    return tuple(part.shape if isinstance(part, EncodedWeight) else part.dims)


def _report(origin: Constant, shape: tuple[int, ...], active: int, kind: str, encoding: str) -> WeightReport:
    parameters = math.prod(shape)
    main = origin.stored or main_part(origin, parameters)
    stored = sum(map(_bytes, origin.parts if main is None else [main]))
    whole = sum(map(_size, origin.parts))
    if main is None and whole > parameters:  # a slice takes its share
        stored = round(stored * parameters / whole)
    return WeightReport(
        name=origin.name if main is None or origin.stored else part_name(main) or origin.name,
        shape=shape,
        parameters=parameters,
        active=active,
        density=active / parameters if parameters else 1.0,
        encoding=encoding,
        type=kind,
        bytes=stored if origin.parts or origin.node is None else field_bytes(origin.node),
    )


def _zeros(operand: Operand) -> Array | None:
    """The integers that represent zero, in a shape that broadcasts to the weight; None when 0 does."""
    index = operand.use.zero
    if index is None or index not in operand.inputs:
        return None
    zeros = operand.inputs[index].array().astype(np.int64)
    if not zeros.any():
        return None
    if zeros.size == 1:
        return zeros.reshape(())
    values = operand.constant.array()
    axis = operand.use.axis if not operand.sizes.get("transB") else -2
    if zeros.ndim > 1 and zeros.ndim == values.ndim:
        return zeros
    if zeros.ndim != 1 or values.ndim < -axis or values.shape[axis] != zeros.size:
        raise UncountableError(f"zero points of shape {zeros.shape} for a weight of shape {values.shape}")
    shape = [1] * values.ndim
    shape[axis] = zeros.size
    return zeros.reshape(shape)


def _size(part: Part) -> int:
    return math.prod(part_shape(part))


def _bytes(part: Part) -> int:
    return part.bytes if isinstance(part, EncodedWeight) else field_bytes(part)


def _type(part: Part) -> int:
    if isinstance(part, EncodedWeight):
        return TensorProto.FLOAT
    return part.values.data_type if isinstance(part, onnx.SparseTensorProto) else part.data_type
