"""Check what a factory of the user's returned: one network, by itself, whose weights have data."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from granet.errors import ModelError

_WRAPPERS: tuple[tuple[type[nn.Module], str, str], ...] = (
    (nn.DataParallel, "DataParallel", "start one process for each GPU with torchrun"),
    (nn.parallel.DistributedDataParallel, "DistributedDataParallel", "start one process for each GPU with torchrun"),
    (AveragedModel, "AveragedModel", "a run keeps no average of its weights"),
    (torch.jit.ScriptModule, "torch.jit", "a script has no layers to mask"),
)


def checked(found: Any, where: str) -> nn.Module:
    """Return ``found`` if it is a network that can be trained by itself; ``where`` names its factory.

    Raises:
        ModelError: it is something else, such as a class or a tuple, or a network inside a wrapper.
    """
    if not isinstance(found, nn.Module):
        raise ModelError(
            "not a network",
            where=where,
            got=_described(found),
            expected="a torch.nn.Module",
            remedy=_remedy(found),
        )
    if isinstance(getattr(found, "_orig_mod", None), nn.Module):
        raise _wrapped("torch.compile", where, "set training.compile = true")
    for kind, name, instead in _WRAPPERS:
        if isinstance(found, kind):
            raise _wrapped(name, where, instead)
    return found


def on_cpu(network: nn.Module, where: str) -> nn.Module:
    """Return ``network`` on the CPU.

    Raises:
        ModelError: it has a parameter or buffer without data.
    """
    elsewhere = False
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                "a tensor without data, on torch's meta device",
                where=f"{where}, {name}",
                remedy="let the factory make and initialise it on the CPU",
            )
        elsewhere = elsewhere or tensor.device.type != "cpu"
    return network.cpu() if elsewhere else network


def _wrapped(wrapper: str, where: str, instead: str) -> ModelError:
    return ModelError(
        "a network inside a wrapper",
        where=where,
        got=wrapper,
        expected="the network itself",
        remedy=f"let the factory return what it wraps; {instead}",
    )


def _described(found: Any) -> str:
    if inspect.isclass(found):
        return f"the class {found.__name__}"
    if isinstance(found, tuple | list):
        return f"{type(found).__name__} of {', '.join(type(part).__name__ for part in found[:6])}"
    return type(found).__name__


def _remedy(found: Any) -> str | None:
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return f"return an instance, {found.__name__}(...), or name the class itself after the colon"
    if isinstance(found, tuple | list) and any(isinstance(part, nn.Module) for part in found):
        return "let the factory return the network alone"
    return "end the factory with 'return network'" if found is None else None
