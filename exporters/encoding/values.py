"""Number formats of stored weights: round a weight to one, and restore the weight.

    fp32   as they are
    fp16   rounded to the nearest number of fp16
    int8   -127 to 127 times a scale, fp32, for each output channel: its largest magnitude over 127

A weight in fp16 is stored as fp16 for fp32 too: nothing is stored in more bits than it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding.decoder_functions import Format
from granet.errors import ModelError

Array = NDArray[Any]

LARGEST_FP16 = 65504.0

PRECISIONS = ("fp32", "fp16", "int8")

_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}


def type_name(element_type: int) -> str:
    """Return the name that users see for an element type of ONNX: fp32, bf16, int8, ..."""
    if element_type not in TensorProto.DataType.values():
        return f"type {element_type}"
    return _NAMES.get(element_type) or TensorProto.DataType.Name(element_type).lower()


@dataclass(frozen=True, eq=False)
class StoredValues:
    """An initializer and its values as they are to be stored.

    Attributes:
        tensor: the initializer.
        format: the number formats of the stored values and of the weight.
        values: of the weight's shape; no negative zeros.
        scales: fp32, one for each channel, with as many dimensions as the weight; None unless the format has scales.
        vanished: how many weights are not zero but are stored as zero.
    """

    tensor: TensorProto
    format: Format
    values: Array
    scales: NDArray[np.float32] | None
    vanished: int


def store(tensor: TensorProto, precision: str, axis: int) -> StoredValues:
    """Round the weight in an initializer of type fp32 or fp16 to a precision.

    Args:
        tensor: the initializer.
        precision: one of ``PRECISIONS``.
        axis: of the output channels, each of which has a scale in int8; a weight of one dimension has one scale.

    Raises:
        ModelError: a number beyond the range of fp16, or for int8 one that is not finite.
    """
    weight = numpy_helper.to_array(tensor)
    scales, stored, values = None, tensor.data_type, weight
    if precision == "int8":
        stored = TensorProto.INT8
        values, scales = _quantise(weight, axis, tensor.name)
    elif precision == "fp16" and tensor.data_type == TensorProto.FLOAT:
        stored = TensorProto.FLOAT16
        values = round_to_fp16(weight, tensor.name, remedy="store it with --precision fp32")
        values = np.where(values == 0, np.float16(0), values)  # small numbers become zeros of either sign
    vanished = np.count_nonzero(weight) - np.count_nonzero(values)
    return StoredValues(tensor, Format(stored, tensor.data_type), values, scales, int(vanished))


def round_to_fp16(values: Array, where: str | None, *, remedy: str) -> Array:
    """Return ``values`` rounded to the nearest fp16 number; those below 2^-25 become zero.

    Raises:
        ModelError: a finite value beyond the largest fp16 number.
    """
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(np.float16)
    lost = np.isinf(rounded) & np.isfinite(values)
    if lost.any():
        raise ModelError(
            "a value is beyond the range of fp16",
            where=where,
            got=f"{values[lost][np.abs(values[lost]).argmax()]:g}",
            expected=f"at most {LARGEST_FP16:g} either way",
            remedy=remedy,
        )
    return rounded


def restore(values: Array, format: Format, scales: Array | None) -> Array:
    """Return the weight that stored values of its shape decode to, bit by bit as ONNX Runtime computes it."""
    dtype = helper.tensor_dtype_to_np_dtype(format.weight)
    if scales is None:
        return values.astype(dtype, copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return (values.astype(np.float32) * scales).astype(dtype, copy=False)


def _quantise(weight: Array, axis: int, where: str) -> tuple[Array, NDArray[np.float32]]:
    wide = weight.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ModelError(
            "a weight that is not finite cannot be stored in int8",
            where=where,
            got=f"{wide[~np.isfinite(wide)][0]:g}",
            remedy="store it with --precision fp32",
        )
    others = tuple(other for other in range(wide.ndim) if wide.ndim == 1 or other != axis % wide.ndim)
    largest = np.abs(wide).max(axis=others, keepdims=True, initial=0.0)
    scales = (largest / 127).astype(np.float32)
    # A channel of zeros, or of numbers so small that their scale rounds to zero, decodes to zeros with any scale.
    scales[scales == 0] = 1
    levels = np.rint(wide / scales.astype(np.float64)).clip(-127, 127).astype(np.int8)
    return levels, scales
