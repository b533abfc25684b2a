"""Which parameters of a model are masked: every convolution and linear weight but those kept dense by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import UninitializedParameter

from granet.errors import UnknownNameError, UsageError

MASKABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Modules, subclasses included, whose ``weight`` can be masked."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and ``torch.compile`` wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def maskable(model: nn.Module, dense: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Return the parameters to mask, by name, in the order of the model's modules.

    A parameter that several layers share appears once, under the name that ``named_parameters`` gives it, and is
    kept dense when any of its names is.

    Args:
        model: the network; wrappers are looked through.
        dense: patterns (``*``, ``?``, ``[...]``) of layers to keep dense, each matched against the name of the
            layer (``layer1.0.conv1``) and of its parameter (``layer1.0.conv1.weight``).

    Raises:
        UsageError: a pattern that matches nothing, no layer left, or a weight that cannot be masked as it is.
    """
    if isinstance(dense, str):
        raise UsageError("patterns come as a sequence", where="dense", got=repr(dense), expected=f"({dense!r},)")
    own = {id(parameter): name for name, parameter in unwrap(model).named_parameters()}
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for layer, module in unwrap(model).named_modules(remove_duplicate=False):
        if isinstance(module, MASKABLE):
            weight = module._parameters.get("weight")
            key = id(module if weight is None else weight)  # the same for all layers that share a parameter
            names.setdefault(key, []).append(f"{layer}.weight" if layer else "weight")
            modules[key] = module

    matched: set[int] = set()
    for pattern in dense:
        hits = {key for key, aliases in names.items() if any(_matches(alias, pattern) for alias in aliases)}
        if not hits:
            layers = [alias.removesuffix(".weight") for aliases in names.values() for alias in aliases]
            raise UnknownNameError("layer in a dense pattern", pattern, layers)
        matched |= hits

    chosen = {}
    for key, aliases in names.items():
        if key not in matched:
            chosen[own.get(key, aliases[0])] = _plain_weight(modules[key], aliases[0])
    if not chosen:
        raise UsageError(
            "there is nothing to mask",
            where=type(unwrap(model)).__name__,
            got=f"{len(names)} convolution and linear layers, all kept dense" if names else "no such layer",
            expected="at least one convolution or linear layer",
        )
    for name, parameter in chosen.items():
        if not parameter.requires_grad:
            raise UsageError(
                "a frozen weight cannot be masked",
                where=name,
                remedy=f"{_keep_dense(name)}, or unfreeze it",
            )
    return chosen


def _plain_weight(module: nn.Module, name: str) -> nn.Parameter:
    parameter = module._parameters.get("weight")
    if parameter is None:
        raise UsageError(
            "the weight is computed, not a parameter of its layer",
            where=name,
            remedy=f"{_keep_dense(name)}, or remove its parametrization or old-style weight_norm first",
        )
    if isinstance(parameter, UninitializedParameter):
        raise UsageError(
            "the weight has no shape yet",
            where=name,
            remedy=f"{_keep_dense(name)}, or run one batch through the lazy module first",
        )
    return parameter


def _keep_dense(name: str) -> str:
    return f"keep the layer dense with dense=({name.removesuffix('.weight')!r},)"


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(".weight"), pattern)
