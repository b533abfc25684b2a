"""The state of an optimizer for a parameter, and whether masking gradients suffices to keep it masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from granet.errors import UsageError

# Adamax is missing on purpose: without a gradient its infinity norm becomes eps, not 0.
_ELEMENTWISE = frozenset({SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta})


def is_elementwise(optimizer: Optimizer) -> bool:
    """Whether weights at zero with zero state and zero gradient stay at zero, state included.

    True for the exact types known to work element by element; a subclass may do anything. Without an ``eps`` an
    adaptive step would divide zero by zero.
    """
    return type(optimizer) in _ELEMENTWISE and all(group.get("eps", 1.0) > 0 for group in optimizer.param_groups)


def shaped_state(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    """Yield the state tensors that have one entry for each entry of ``parameter``."""
    if parameter in optimizer.state:
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0:
                yield value


def check_in_optimizer(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise UsageError if one of ``parameters`` is not in a group of the optimizer."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        if id(parameter) not in known:
            raise UsageError(
                "the optimizer does not hold this parameter",
                where=name,
                remedy="make the optimizer from model.parameters() after moving the model, or keep the layer dense",
            )


def laid_out(value: Any, parameter: nn.Parameter) -> Any:
    """Return a slot of optimizer state in the memory format of its parameter; anything else as it is.

    Fused optimizers assume that both have the same strides.
    """
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
