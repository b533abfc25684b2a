"""The values of a weight in the format in which they are stored, and back.

    fp32   as they are
    fp16   rounded to the nearest number of fp16
    int8   -127 to 127 times a scale, fp32, for each output channel: its largest magnitude over 127

A weight that is fp16 itself is stored as fp16 for fp32 too: nothing is ever stored in more bits than it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from exporters.encoding.decoder_functions import Format
from granet.errors import ModelError

Array = NDArray[Any]

PRECISIONS = ("fp32", "fp16", "int8")

DTYPES: Mapping[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.INT8: np.dtype(np.int8),
}
"""The element types of stored values and weights."""

PRECISION_OF: Mapping[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8"}
"""What users call an element type."""


@dataclass(frozen=True, eq=False)
class StoredValues:
    """The values of one weight.

    Attributes:
        format: how they are stored.
        values: of the weight's shape; no negative zeros.
        scales: fp32, one for each channel, with as many dimensions as the weight; None unless the format has scales.
        vanished: how many weights are not zero but are stored as zero.
    """

    format: Format
    values: Array
    scales: NDArray[np.float32] | None
    vanished: int


def store(weight: Array, precision: str, *, channels: int | None, where: str) -> StoredValues:
    """Rounds ``weight`` to what ``precision`` can say.

    Args:
        weight: fp32 or fp16.
        precision: one of ``PRECISIONS``.
        channels: the axis of its output channels, for int8; None for one scale.
        where: what it is called.

    Raises:
        ModelError: a number beyond the range of fp16, or for int8 one that is not finite.
    """
    own = TensorProto.FLOAT if weight.dtype == np.float32 else TensorProto.FLOAT16
    scales = None
    if precision == "int8":
        kind = TensorProto.INT8
        values, scales = _quantised(weight, channels, where)
    elif precision == "fp16" and own == TensorProto.FLOAT:
        kind = TensorProto.FLOAT16
        values = _halved(weight, where)
    else:
        kind, values = own, weight
    vanished = np.count_nonzero(weight) - np.count_nonzero(values)
    return StoredValues(Format(kind, own), values, scales, int(vanished))


def restore(values: Array, format: Format, scales: Array | None) -> Array:
    """The weight that stored values stand for, as ONNX Runtime computes it, bit by bit.

    Args:
        values: of the weight's shape.
        format: how they are stored.
        scales: for formats that have them, of as many dimensions as the weight.
    """
    weight = values.astype(DTYPES[TensorProto.FLOAT if format.scaled else format.weight], copy=False)
    if scales is not None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            weight = (weight * scales).astype(DTYPES[format.weight], copy=False)
    return weight


def _halved(weight: Array, where: str) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        values = weight.astype(np.float16)
    lost = np.isinf(values) & np.isfinite(weight)
    if lost.any():
        raise ModelError(
            "a weight is beyond the range of fp16",
            where=where,
            got=f"{weight[lost][np.abs(weight[lost]).argmax()]:g}",
            expected="at most 65504 either way",
            remedy="store it with --precision fp32",
        )
    # Numbers below half of the smallest become zeros of either sign.
    return np.where(values == 0, np.float16(0), values)


def _quantised(weight: Array, channels: int | None, where: str) -> tuple[Array, NDArray[np.float32]]:
    wide = weight.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ModelError(
            "a weight that is not finite has no place on a scale",
            where=where,
            got=f"{wide[~np.isfinite(wide)][0]:g}",
            remedy="store it with --precision fp32",
        )
    others = tuple(axis for axis in range(wide.ndim) if axis != channels)
    largest = np.abs(wide).max(axis=others, keepdims=True, initial=0.0)
    scales = (largest / 127).astype(np.float32)
    # A channel of zeros, or of numbers so small that their scale is none, decodes to zeros with any scale.
    scales[scales == 0] = 1
    levels = np.rint(wide / scales.astype(np.float64)).clip(-127, 127).astype(np.int8)
    return levels, scales
