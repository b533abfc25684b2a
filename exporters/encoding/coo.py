"""The standard's own sparse initializer: the non-zero values of a tensor with their flat indices, 64 bits each.

ONNX Runtime makes it dense while it loads the model; many other tools do not know it (``CAVEAT``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]

CAVEAT = (
    "coo is the standard's own sparse initializer: ONNX Runtime opens it, but strict shape inference, onnx-ir, the "
    "reference evaluator and the version converter do not know it, and some of them lose the weight without a word"
)


def sparse(name: str, values: Array) -> onnx.SparseTensorProto:
    """Return ``values`` as the sparse initializer ``name``."""
    flat = values.reshape(-1)
    found = np.flatnonzero(flat)
    made = onnx.SparseTensorProto()
    made.dims.extend(values.shape)
    made.values.CopyFrom(numpy_helper.from_array(flat[found], name))
    # The checker accepts no other type, and ONNX Runtime linear indices.
    made.indices.CopyFrom(numpy_helper.from_array(found.astype(np.int64)))
    return made


def dense(values: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    """Return the tensor of ``shape`` with ``values`` at ``indices``, which :func:`check` accepts, and zeros elsewhere.

    Allocates the whole tensor: callers have to limit its size.
    """
    made = np.zeros(int(np.prod(shape, dtype=np.int64)), values.dtype)
    made[_flat(indices, shape)] = values
    return made.reshape(shape)


def check(values: Array, indices: Array, shape: tuple[int, ...]) -> None:
    """Check that each of ``values``, of one dimension, has an element of its own in a tensor of ``shape``.

    Indices are int64, flat [n], or by axis [n, axes], and increase, as the standard requires. Allocates no more than
    a multiple of them.

    Raises:
        ValueError: that is not so.
    """
    if values.ndim != 1 or indices.dtype != np.int64:
        raise ValueError("values of more than one dimension, or indices that are not int64")
    if indices.shape not in ((values.size,), (values.size, len(shape))):
        raise ValueError(f"indices of shape {indices.shape} for {values.size} values in {len(shape)} dimensions")
    limits = np.array(shape, np.int64) if indices.ndim == 2 else np.prod(shape, dtype=np.int64)
    if ((indices < 0) | (indices >= limits)).any():
        raise ValueError(f"indices outside of the shape {shape}")
    if (np.diff(_flat(indices, shape)) <= 0).any():
        raise ValueError("indices that do not increase")


def _flat(indices: Array, shape: tuple[int, ...]) -> Array:
    return indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
