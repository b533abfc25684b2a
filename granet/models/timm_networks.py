"""Build networks of timm for the data's channels and classes. timm is optional."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from granet.errors import ModelError, UnknownNameError
from granet.models.torchvision_guard import import_torchvision


def build_timm(name: str, *, in_channels: int, classes: int) -> nn.Module:
    """Build timm's network ``name`` with random weights from torch's global generator.

    The classifier has ``classes`` outputs, the stem ``in_channels`` inputs, both of timm's own making. Nothing is
    downloaded: only names of timm's registry are taken, and those of pretrained weights are refused.

    Raises:
        UnknownNameError: timm has no network of that name.
        ModelError: timm is missing or cannot be imported, or the name asks for pretrained weights.
    """
    timm = _import_timm()
    names = timm.list_models()
    architecture, dot, tag = name.partition(".")
    if dot and architecture in names:
        raise ModelError(
            "a network with pretrained weights, which granet does not download",
            where=f"timm:{name}",
            got=f"the weights {tag!r}",
            remedy=f"name timm:{architecture}, and start from a file of weights with --weights FILE",
        )
    if name not in names:
        raise UnknownNameError("timm model", name, names)
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=in_channels)
    return network


def _import_timm() -> Any:
    """Import timm, also next to a CPU-only torch, and torchvision, which it needs."""
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except Exception as error:  # one that belongs to another torch may fail in any way
        missing = isinstance(error, ModuleNotFoundError) and error.name == "timm"
        raise ModelError(
            "networks of timm need timm, which is not installed" if missing else "timm cannot be imported",
            got=None if missing else f"{type(error).__name__}: {error}",
            remedy="install it with pip install 'granet[timm]', under the constraints that torch was installed with",
        ) from error
