"""What the standard itself says of a file: onnx's checker, and its inference of shapes."""

from __future__ import annotations

from pathlib import Path

import onnx

from granet.errors import ModelError


def check(path: Path, *, full: bool = True) -> None:
    """Has onnx check the model in the file at ``path``, and infer every shape strictly.

    Args:
        path: an ONNX file; its data may be beside it. Nothing is left in its folder.
        full: False leaves the inference of shapes out, which the standard's own sparse initializers do not survive.

    Raises:
        ModelError: something does not conform.
    """
    inferred = path.with_name("inferred.onnx")
    try:
        onnx.checker.check_model(path, full_check=full)
        if full:
            onnx.shape_inference.infer_shapes_path(path, inferred, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError("the model does not conform to ONNX", where=path.name, got=first) from error
    finally:
        inferred.unlink(missing_ok=True)
