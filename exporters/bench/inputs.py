"""Inputs of models: their shapes, and arrays drawn with a fixed key, so that all models see the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.bench.protocol import Input, Refusal

# ONNX Runtime's names of types -> NumPy.
_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def resolve(node: Input, *, batch: int, shape: Sequence[int], path: str) -> tuple[int, ...]:
    """Return the shape to feed: ``batch`` first, then ``shape`` where the file leaves the sizes of an image open.

    Raises:
        Refusal: the batch is fixed to another size, sizes are open and not given, or given and different.
    """
    if not node.shape:
        return ()
    where, given = f"{path}, input {node.name}", f"--shape {_times(shape)}"
    first, *rest = node.shape
    if isinstance(first, int) and first != batch:
        raise Refusal(
            "UsageError",
            "the file has a fixed batch size",
            where=where,
            got=f"--batch {batch}",
            expected=first,
            remedy=f"use --batch {first}, or export it with a dynamic batch",
        )
    if not shape and any(not isinstance(size, int) for size in rest):
        remedy = "give them, as in --shape 3x224x224"
        raise Refusal("UsageError", "sizes besides the batch are open", where=where, got=_times(rest), remedy=remedy)
    if shape and len(shape) != len(rest):
        raise Refusal("UsageError", "wrong number of dimensions", where=where, got=given, expected=_times(rest))
    if any(isinstance(size, int) and size != wanted for wanted, size in zip(shape, rest, strict=False)):
        raise Refusal("UsageError", "the file has another size", where=where, got=given, expected=_times(rest))
    return (batch, *(shape or (size for size in rest if isinstance(size, int))))


def draw(dtype_name: str, shape: Sequence[int], *, key: int, where: str) -> NDArray[Any]:
    """Return an array of ONNX Runtime's type ``dtype_name``: standard normal floats, integers and bools of 0 and 1.

    Raises:
        Refusal: a type that cannot be drawn.
        MemoryError: more than fits.
    """
    dtype = _TYPES.get(dtype_name)
    if dtype is None:
        what = "values of an input of this type cannot be made up"
        raise Refusal("ModelError", what, where=where, got=dtype_name, expected=", ".join(_TYPES))
    generator = np.random.default_rng(key)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(generator.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False))
    return np.asarray(generator.integers(0, 2, size=shape).astype(dtype))


def _times(sizes: Sequence[int | str | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)
