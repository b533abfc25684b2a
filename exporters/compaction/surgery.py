"""Removal of channels from the tensors and layers of a network; its forward pass stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from granet.coupling.removal import RemovalPlan
from granet.coupling.tracing import named_tensors


@torch.no_grad()
def shrink(model: nn.Module, plan: RemovalPlan) -> None:
    """Carry out the plan on ``model``, in place."""
    tensors = named_tensors(model)
    new: dict[str, Tensor] = {}
    for fold in plan.folds:
        weight = new.setdefault(fold.weight, tensors[fold.weight].detach().clone())
        weight.index_fill_(fold.axis, fold.columns.to(weight.device), 0.0)
        if fold.into is not None:
            shift = new.get(fold.into, tensors[fold.into].detach())
            new[fold.into] = (shift.double() + fold.addition.to(shift.device)).to(shift.dtype)
    for name, axes in plan.kept.items():
        tensor = new.get(name, tensors[name].detach())
        for axis, indices in axes.items():
            tensor = tensor.index_select(axis, indices.to(tensor.device))
        new[name] = tensor
    replace(model, new)


def replace(model: nn.Module, new: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers by tensors of other shapes, wherever they are used.

    Size attributes of convolutions, linear layers, norms and PReLUs follow.
    """
    old = named_tensors(model)
    before = {module: tensor.shape for module in model.modules() if (tensor := _sized(module)) is not None}
    replacements: dict[int, Tensor] = {}
    for name, tensor in new.items():
        own = old[name]
        replacements[id(own)] = nn.Parameter(tensor, own.requires_grad) if isinstance(own, nn.Parameter) else tensor
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for key, value in tensors.items():
                tensors[key] = replacements.get(id(value), value)  # type: ignore[assignment]
    for module, shape in before.items():
        _resize(module, shape)


def _sized(module: nn.Module) -> Tensor | None:
    """Return the tensor from which the size of a layer can be read."""
    weight = module._parameters.get("weight")
    return module._buffers.get("running_mean") if weight is None else weight


def _resize(module: Any, before: torch.Size) -> None:
    """Set the size attributes of a layer, whose tensor had the shape ``before``, to that of its present tensor."""
    now: torch.Size = _sized(module).shape  # type: ignore[union-attr]
    if now == before:
        return
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        module.in_channels, module.out_channels = now[0], now[1] * module.groups
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.groups > 1:  # groups keep their size; there are fewer of them
            module.groups = now[0] * module.groups // before[0]
        module.in_channels, module.out_channels = now[1] * module.groups, now[0]
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = now[1], now[0]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = now[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = now[0]
