"""Check ONNX files against the standard, with onnx's checker and shape inference."""

from __future__ import annotations

from pathlib import Path

import onnx

from exporters.runtime import first_line
from granet.errors import ModelError


def check(path: Path, *, full: bool = True) -> None:
    """Let onnx check the model in the file at ``path``, and infer every shape strictly if ``full``.

    Inference does not support the standard's own sparse initializers.

    Raises:
        ModelError: something does not conform.
    """
    inferred = path.with_name("inferred.onnx")
    try:
        onnx.checker.check_model(path, full_check=full)
        if full:
            onnx.shape_inference.infer_shapes_path(path, inferred, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError("the model does not conform to ONNX", where=path.name, got=first_line(error)) from error
    finally:
        inferred.unlink(missing_ok=True)
