"""Copies of a network with other tensors in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def copy_with(model: nn.Module, replaced: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of the network that holds ``replaced(tensor)`` for each of its parameters, buffers and tensors.

    Parameters stay parameters, and those that layers share stay shared. ``replaced`` returns tensors that no gradient
    flows through.
    """
    replacements: dict[int, Any] = {}
    for module in model.modules():
        tensors = [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *tensors):
            if id(tensor) not in replacements:
                new = replaced(tensor)
                is_parameter = isinstance(tensor, nn.Parameter)
                replacements[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
    return copy.deepcopy(model, replacements)  # it uses what its memo holds as copies
