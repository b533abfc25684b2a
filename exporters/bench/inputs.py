"""What models are fed with: arrays of the right shape, drawn by a fixed key, so that all models see the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.bench.worker_errors import Refusal

# How ONNX Runtime calls the types of tensors -> NumPy.
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

Sizes = Sequence[int | str | None]


def resolve(sizes: Sizes, *, batch: int, shape: Sequence[int], where: str) -> tuple[int, ...]:
    """The shape to feed: ``batch`` first, then ``shape`` where the file leaves the other sizes open.

    Args:
        sizes: of an input as declared; a name, or None, where one is open.
        batch: images at a time.
        shape: sizes of one example, as long as ``sizes`` less one; empty when the file leaves none open.
        where: file and input, for messages.

    Raises:
        Refusal: the batch is fixed to another size, sizes are open and not given, or given and different.
    """
    if not sizes:
        return ()
    first, *rest = sizes
    if isinstance(first, int) and first != batch:
        raise Refusal(
            "UsageError",
            "the file has a fixed batch size",
            where=where,
            got=f"--batch {batch}",
            expected=first,
            remedy=f"use --batch {first}, or export it with a dynamic batch",
        )
    if shape and len(shape) != len(rest):
        raise Refusal(
            "UsageError", "another number of dimensions", where=where, got=f"--shape {_x(shape)}", expected=_x(rest)
        )
    if not shape and any(not isinstance(size, int) for size in rest):
        raise Refusal(
            "UsageError",
            "sizes are open besides the batch",
            where=where,
            got=_x(rest),
            remedy="give them, as in --shape 3x224x224",
        )
    for given, size in zip(shape, rest, strict=bool(shape)):
        if isinstance(size, int) and size != given:
            raise Refusal(
                "UsageError", "the file has another size", where=where, got=f"--shape {_x(shape)}", expected=_x(rest)
            )
    return (batch, *(shape or (size for size in rest if isinstance(size, int))))


def draw(kind: str, shape: Sequence[int], *, key: int, where: str) -> NDArray[Any]:
    """An array of that type: normal floats, as after normalisation; small whole numbers; either truth value.

    Raises:
        Refusal: a type of input that cannot be drawn.
        MemoryError: more than fits.
    """
    dtype = _TYPES.get(kind)
    if dtype is None:
        raise Refusal(
            "ModelError", "an input of a type that cannot be made up", where=where, got=kind, expected=", ".join(_TYPES)
        )
    generator = np.random.default_rng(key)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(generator.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False))
    return np.asarray(generator.integers(0, 2, size=shape).astype(dtype))


def _x(sizes: Sizes) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)
