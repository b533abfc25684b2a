"""Whether masks take effect: a layer has to multiply by its weight, or by numbers that are zero where the weight is.

A layer that standardises its weight computes, from a weight that is zero outside its mask, another one that is not.
Such a mask saves nothing, and the inactive weights count. It is found by trying: half of each weight is set to zero in
a copy of the network, and the zeros are followed to the products, see ``granet.layers.zero_tracing``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from granet.errors import UsageError, counted, listing
from granet.layers.axes import WeightAxes
from granet.layers.copying import copy_with
from granet.layers.maskable import MASKABLE, unwrap
from granet.layers.zero_tracing import ZeroTracer

_PERIOD = 4099
"""Length of the pattern of zeros, which repeats: a prime, so that it differs from row to row."""


def without_effect(
    model: nn.Module, weights: Mapping[str, nn.Parameter], call: Callable[[nn.Module], object]
) -> dict[str, str]:
    """Return the weights whose zeros save nothing, and the operator that gets other numbers instead, by name.

    A weight that is not used in the passes is not among them. The network and torch's generators stay as they were.

    Args:
        model: the network, without wrappers. One without data (meta device) is tried with made-up values on the CPU.
        weights: those of its parameters that are in question, by name.
        call: runs a network on an example. It is called with a copy of ``model`` in training and in evaluation mode;
            an exception ends that pass.
    """
    names = {id(weight): name for name, weight in weights.items()}
    halves: dict[str, tuple[Tensor, Tensor]] = {}
    device = next(iter(weights.values())).device
    if device.type == "meta":
        device = torch.device("cpu")
    pattern = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(0)).to(device)
    pattern[0] = -1  # so that of a weight of one element it is that one

    def halved(tensor: Tensor) -> Tensor:
        name, trains = names.get(id(tensor)), tensor.requires_grad
        tensor = torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.detach()
        if not trains or not tensor.is_floating_point():
            return tensor.clone()
        numbers = _tiled(pattern, tensor)
        # What starts at zero, as in an adapter, is not zero after the first step.
        value = torch.where(tensor == 0, numbers / 100, tensor)
        if name is None:
            return value
        halves[name] = value.masked_fill_(inactive := numbers < 0, 0), inactive
        return value

    with torch.no_grad(), torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        try:
            trial = copy_with(model, halved)
        except Exception:  # a network that cannot be copied is not tried
            return {}
        tracer = ZeroTracer(halves, [*trial.parameters(), *trial.buffers()])
        for training in (True, False):
            trial.train(training)
            with suppress(Exception), tracer:
                call(trial)
    replaced = {name: operator for name, operator in tracer.replaced.items() if name not in tracer.multiplied}
    return replaced | tracer.spilled


def check_network(model: nn.Module, weights: Mapping[str, nn.Parameter], call: Callable[[nn.Module], object]) -> None:
    """Raise UsageError if masks of some weights would have no effect in a network, which is tried on an example.

    Args:
        model: the network.
        weights: parameters of it that are masked, by name.
        call: runs a network on an example, such as ``lambda network: network(images)``; see ``without_effect``.
    """
    network = unwrap(model)
    _refuse(network, without_effect(network, weights, call), weights)


def check_layers(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
    """Raise UsageError if masks of some weights would have no effect, as ``layers_without_effect`` finds them."""
    _refuse(unwrap(model), layers_without_effect(model, weights), weights)


def remarks(model: nn.Module, sparse: Collection[str]) -> tuple[str, ...]:
    """Return a remark on layers with one of the ``sparse`` weights that ``layers_without_effect`` finds, if any."""
    weights = {name: parameter for name, parameter in unwrap(model).named_parameters() if name in sparse}
    found = layers_without_effect(model, weights)
    if not found:
        return ()
    layers = listing((name.removesuffix(".weight") for name in weights if name in found), 3)
    return (
        f"masks have no effect on {layers}: such a layer multiplies by numbers that are not zero where its weight is",
    )


def layers_without_effect(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> set[str]:
    """Return the weights whose zeros save nothing in their layers, each of which is tried by itself, by name.

    Tried are layers with a forward pass of their own, which takes one argument of the usual shape. What a network does
    with the weights of ordinary layers is seen by ``without_effect`` alone.

    Args:
        model: the network.
        weights: parameters of it that are masked, by name.
    """
    found: set[str] = set()
    names = {id(weight): name for name, weight in weights.items()}
    for module in unwrap(model).modules():
        weight = module._parameters.get("weight")
        if weight is None or id(weight) not in names or not _has_own_forward(module):
            continue
        if without_effect(module, {"weight": weight}, partial(_call, example=_example(module))):
            found.add(names[id(weight)])
    return found


def _call(module: nn.Module, example: Tensor) -> object:
    return module(example)


def _has_own_forward(module: nn.Module) -> bool:
    """Whether a convolution or linear layer may do something else than its base class in torch."""
    base = next((kind for kind in MASKABLE if isinstance(module, kind)), None)
    if base is None:
        return False
    methods = ("__call__", "forward", "_conv_forward")
    inherited = all(getattr(type(module), method, None) is getattr(base, method, None) for method in methods)
    return not inherited or bool(module._forward_pre_hooks) or "forward" in vars(module)


def _example(module: nn.Module) -> Tensor:
    """Return an input of two examples for a convolution, as small as its kernel allows, or a linear layer."""
    weight: Tensor = module.weight  # type: ignore[assignment]  # of every layer that can be masked
    inputs, _ = WeightAxes.of(module).channels(weight.shape)
    kernel, dilation = weight.shape[2:], getattr(module, "dilation", ())
    sides = [step * (side - 1) + 2 for side, step in zip(kernel, dilation, strict=False)]
    device = "cpu" if weight.is_meta else weight.device
    return torch.ones((2, inputs, *sides), dtype=weight.dtype, device=device)


def _refuse(network: nn.Module, found: Collection[str], weights: Collection[str]) -> None:
    if not found:
        return
    layers = [name.removesuffix(".weight") for name in weights if name in found]
    kinds = {type(network.get_submodule(name.rpartition(".")[0])).__name__ for name in weights if name in found}
    dense = _patterns(layers, [name.removesuffix(".weight") for name in weights if name not in found])
    patterns = "[" + ", ".join(f'"{pattern}"' for pattern in dense) + "]"
    raise UsageError(
        "masks would have no effect: layers multiply not by their weights but by numbers computed from them, which "
        "are not zero where the weights are",
        where=type(network).__name__,
        got=f"{len(layers)} of {counted(len(weights), 'layer')}, {listing(layers, 3)} ({', '.join(sorted(kinds))})",
        remedy=f"keep them dense with dense={patterns} (method.dense in a recipe), or use other layers",
    )


def _patterns(layers: Collection[str], others: Collection[str]) -> list[str]:
    """Return patterns for names that match all of ``layers``, and of ``others`` none."""
    found: dict[str, None] = {}
    for layer in layers:
        general = re.sub(r"(?<![^.])(\d+\.)*\d+(?![^.])", "*", layer)
        one_of_many = any(character.isalpha() for character in general)
        suits = one_of_many and not any(fnmatchcase(other, general) for other in others)
        found[general if suits else layer] = None
    return list(found)


def _tiled(pattern: Tensor, like: Tensor) -> Tensor:
    """Return a repeated pattern in the shape, layout and dtype of a tensor."""
    flat = pattern.to(like.dtype).repeat(-(-like.numel() // _PERIOD))[: like.numel()]
    return torch.empty_like(like).copy_(flat.view(like.shape))
