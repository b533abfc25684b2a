"""Sessions of ONNX Runtime that run sparse layers by the kernels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from granet.errors import ModelError
from granet.kernels import library

if TYPE_CHECKING:
    import onnxruntime


def session(
    path: str | os.PathLike[str], options: onnxruntime.SessionOptions | None = None, **keywords: Any
) -> onnxruntime.InferenceSession:
    """Open an ONNX file in ONNX Runtime with the sparse kernels, or without where they are not installed.

    Args:
        path: of the file; islands of sparse layers in it run by the kernels, all else as in any session.
        options: of the session. The kernels are registered with them.
        keywords: further arguments of ``onnxruntime.InferenceSession``; ``providers`` is the CPU unless given.

    Raises:
        ModelError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("onnxruntime cannot be imported", got=error, remedy="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions() if options is None else options
    if library.path() is not None:
        library.register(options)
    return onnxruntime.InferenceSession(os.fspath(path), options, **{"providers": ["CPUExecutionProvider"], **keywords})
