"""Import torchvision, also next to a CPU-only torch.

The torchvision wheel on PyPI has CUDA operators. Next to a CPU-only torch they cannot be loaded, and the import fails
on the first operator it describes, although the networks need none of them. Declaring the operators' schemas, without
any implementation, is enough for the import. A working installation never needs it. Where it does, those operators
(non-maximum suppression) and torchvision's own image decoders still fail when called, as they should.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from granet.errors import ModelError

_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A library removes its definitions when it is collected, so it must live as long as the process.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, also next to a CPU-only torch.

    Raises:
        ModelError: torchvision is missing or does not fit the installed torch.
    """
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        if str(error) != _SYMPTOM or _declared:
            raise ModelError(
                "torchvision cannot be imported",
                got=f"{type(error).__name__}: {error}",
                remedy=f"install the torchvision release that belongs to torch {torch.__version__}",
            ) from error
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return import_torchvision()
