"""Floating-point operations of the convolutions and linear layers of a masked network.

Two operations, a multiplication and an addition, for every active weight and every position it is applied to.
Normalisation, activations, pooling, biases and the masks themselves are not counted, as in the sparse-training
literature (RigL, 1911.11134): dense ResNet-50 on 224 x 224 images costs 8.2e9.

Counted are the convolutions (1-D to 3-D, transposed ones too) and linear layers that run as modules. A weight that
reaches ``torch.nn.functional.conv2d`` by another way, or a matrix product written by hand, is not seen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from granet.errors import ModelError, UnknownNameError, UsageError
from granet.layers.axes import WeightAxes
from granet.layers.maskable import MASKABLE


def inference(model: nn.Module, input_shape: Sequence[int], densities: Mapping[str, float] | None = None) -> float:
    """Return the FLOPs of one forward pass on one example, each layer's times its density: f_S, or f_D without any.

    Args:
        model: the network itself, not a compiled or distributed wrapper of it. It is left exactly as it was.
        input_shape: shape of one example without the batch, (C, H, W) for images.
        densities: active share, 0 to 1, by parameter name such as ``conv1.weight``. A parameter left out counts
            as dense; one that costs nothing may be named.

    Raises:
        UnknownNameError: a density is given for a parameter that the network has not.
        UsageError: a density is outside [0, 1], or the shape is not positive.
        ModelError: the forward pass cannot be traced.
    """
    densities = densities or {}
    names = dict(model.named_parameters())
    for name, density in densities.items():
        if name not in names:
            raise UnknownNameError("parameter", name, names, where="densities")
        if not 0.0 <= density <= 1.0:
            raise UsageError("a density is a share", where=name, got=density, expected="0 to 1")
    costs = layers(model, input_shape)
    return sum((cost * densities.get(name, 1.0) for name, cost in costs.items()), 0.0)


def layers(model: nn.Module, input_shape: Sequence[int]) -> dict[str, float]:
    """Return the dense FLOPs of one forward pass on one example by name of the weight, in the order of first use.

    A layer that runs several times counts every time, and layers that share a weight count together, under the name
    that ``model.named_parameters()`` gives it. Layers that evaluation mode does not run are absent.

    The pass runs on a copy of the network without data (torch's meta device), in evaluation mode: it needs hardly any
    memory, no random numbers, and changes nothing. ResNet-50 takes 0.05 s; the first pass of a process about a second
    more, while torch loads its rules for shapes.

    Raises:
        UsageError: the shape is not positive.
        ModelError: the forward pass depends on the values of tensors, or fails on this shape.
    """
    if not input_shape or min(input_shape) < 1:
        raise UsageError("an input shape has positive sizes", got=tuple(input_shape), expected="(C, H, W)")
    costs: dict[str, float] = {}
    try:
        shadow = _without_data(model)
        names = {id(parameter): name for name, parameter in shadow.named_parameters()}
        for module_name, module in shadow.named_modules():
            if isinstance(module, MASKABLE):
                # A parametrised weight is computed, not stored: it goes by the name it appears under.
                weight = names.get(id(module._parameters.get("weight")), f"{module_name}.weight")
                module.register_forward_hook(_Counter(weight, costs), with_kwargs=True)
        dtype = next((p.dtype for p in shadow.parameters() if p.is_floating_point()), None)
        with torch.no_grad(), torch.device("meta"):
            shadow(torch.empty((1, *input_shape), dtype=dtype))
    except Exception as error:
        raise ModelError(
            f"the forward pass cannot be traced on one example of shape {tuple(input_shape)}",
            where=type(model).__name__,
            got=f"{type(error).__name__}: {error}",
            remedy="keep constant tensors in buffers, and let no branch depend on the values of a tensor",
        ) from error
    return costs


def training_step(active: float, dense: float, *, dense_gradient: bool = False) -> float:
    """Return the FLOPs of one optimizer step per example: forward, gradients of activations, gradients of weights.

    3 f_S for a sparse network; with ``dense_gradient``, as a topology update by gradient needs it, 2 f_S + f_D. Over
    dT plain steps and one with a dense gradient the mean is RigL's (3 f_S dT + 2 f_S + f_D) / (dT + 1)
    (1911.11134).

    Args:
        active: f_S, from :func:`inference` with the densities of that step.
        dense: f_D, the same without densities.
        dense_gradient: whether the step computes gradients for inactive weights too.
    """
    return 2.0 * active + (dense if dense_gradient else active)


class _Counter:
    """Forward hook that adds the operations of a layer to the ``costs`` of its weight."""

    def __init__(self, weight: str, costs: dict[str, float]) -> None:
        self.weight, self.costs = weight, costs

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        # A convolution or linear layer uses all weights of an output for each output value, a transposed convolution
        # all weights of an input for each input value.
        values = (*args, *kwargs.values())[0] if WeightAxes.of(module).transposed else output
        weight: Tensor = module.weight  # type: ignore[assignment]
        macs = values.numel() * weight[0].numel()
        self.costs[self.weight] = self.costs.get(self.weight, 0.0) + 2.0 * macs


def _without_data(model: nn.Module) -> nn.Module:
    """Return a copy of the network in evaluation mode whose tensors have no storage (meta device)."""
    placeholders: dict[int, Any] = {}
    for module in model.modules():
        tensors = [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *tensors):
            empty = torch.empty_like(tensor, device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            placeholders[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    # deepcopy uses what its memo holds as copies, so that no data is copied.
    return copy.deepcopy(model, placeholders).eval()
