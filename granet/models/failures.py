"""Errors raised inside a network, as ModelError with the layer or the line of the user's code that failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from granet.errors import GranetError, ModelError
from granet.files.user_code import described


@contextmanager
def network_errors(
    what: str, *, where: str, network: nn.Module | None = None, remedy: str | None = None
) -> Iterator[None]:
    """Context of a forward or backward pass that turns whatever the network raises into ModelError.

    Errors of granet pass unchanged, and so does a lack of memory, which is not the network's fault.

    Args:
        what, where, remedy: of the ModelError.
        network: names the layer that failed, where no code of the user's was running.
    """
    try:
        yield
    except GranetError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(
            what, where=where, got=described(error, place=_layer_of(error, network)), remedy=remedy
        ) from error


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that the device or the machine has too little memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _layer_of(error: Exception, network: nn.Module | None) -> str | None:
    """Return the innermost layer of ``network`` that was running: "layer features.0, Conv2d"."""
    if network is None:
        return None
    names = {id(module): name for name, module in network.named_modules() if name}
    running = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    layers = [module for module in running if id(module) in names]
    return f"layer {names[id(layers[-1])]}, {type(layers[-1]).__name__}" if layers else None
