"""Sparse training of convolutional networks: GraNet and its kin, from a recipe or in your own loop.

Public API, imported lazily: ``Sparsifier`` with a method of ``methods`` for a loop of your own; ``load_checkpoint`` and
``load_weights`` for what ``granet train`` wrote; ``session`` opens an exported ONNX file with
the sparse kernels; ``allocation``, ``schedules`` and ``topology`` are the parts of methods.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from granet import allocation, methods, schedules, topology
    from granet.checkpoint import Checkpoint, load_weights
    from granet.checkpoint import load as load_checkpoint
    from granet.kernels.inference import session
    from granet.sparsifier import Sparsifier

__all__ = [
    "Checkpoint",
    "Sparsifier",
    "allocation",
    "load_checkpoint",
    "load_weights",
    "methods",
    "schedules",
    "session",
    "topology",
]

_ATTRIBUTES = {
    "Checkpoint": ("granet.checkpoint", "Checkpoint"),
    "Sparsifier": ("granet.sparsifier", "Sparsifier"),
    "load_checkpoint": ("granet.checkpoint", "load"),
    "load_weights": ("granet.checkpoint", "load_weights"),
    "session": ("granet.kernels.inference", "session"),
}


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTES:
        module, attribute = _ATTRIBUTES[name]
        return getattr(import_module(module), attribute)
    if name in __all__:
        return import_module(f"granet.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
