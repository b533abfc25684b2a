"""Build networks of torchvision for the data's channels and classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from granet.errors import ModelError, UnknownNameError
from granet.models.torchvision_guard import import_torchvision

# Auxiliary classifiers make a network return several outputs while it trains, which no loss here expects.
_SETTINGS: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def build_torchvision(name: str, *, in_channels: int, classes: int) -> nn.Module:
    """Build torchvision's classification network ``name`` with random weights from torch's global generator.

    The classifier has ``classes`` outputs. Torchvision's networks take colour images; for any other number of
    channels the first convolution, and it alone, is replaced (see :func:`replace_first_convolution`).

    Raises:
        UnknownNameError: torchvision has no classification network of that name.
        ModelError: torchvision cannot be imported, or the network cannot be fitted.
    """
    torchvision: Any = import_torchvision()
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise UnknownNameError("torchvision model", name, names)
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **_SETTINGS.get(name, {})
    )
    if in_channels != 3:
        replace_first_convolution(network, in_channels)
    return network


def replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one with ``in_channels`` input channels, in place.

    Kernel, stride, padding and bias stay. Weights are drawn from a normal distribution with the deviation of
    the old ones times sqrt(old channels / new channels), so that the layer's outputs keep their variance.

    Raises:
        ModelError: there is no ungrouped 2-D convolution.
    """
    convolutions = (
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    )
    name, old = next(convolutions, (None, None))
    if name is None or old is None:
        raise ModelError("no convolution that could take other channels", where=type(network).__name__)
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    deviation = old.weight.detach().std() * math.sqrt(old.in_channels / in_channels)
    new.weight = nn.Parameter(torch.randn_like(new.weight) * deviation)
    if old.bias is not None:
        new.bias = old.bias
    network.set_submodule(name, new)
