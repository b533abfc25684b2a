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


def hooked(optimizer: object) -> Optimizer:
    """Return the optimizer itself, or the one inside wrappers that have no hooks of their own.

    Raises:
        UsageError: there is none.
    """
    inner = optimizer
    while inner is not None:
        # A wrapper may be a subclass of Optimizer and yet have no hooks of its own, as Accelerate's.
        if isinstance(inner, Optimizer) and "_optimizer_step_pre_hooks" in vars(inner):
            return inner
        inner = getattr(inner, "optimizer", None)
    raise UsageError("not an optimizer of torch", got=type(optimizer).__name__)


def with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizer and those it keeps in its attributes, as wrappers such as Lookahead do."""
    found = [optimizer]
    for outer in found:  # which grows
        inner = (value for value in vars(outer).values() if isinstance(value, Optimizer))
        found += [value for value in inner if not any(value is known for known in found)]
    return found


def shaped_state(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    """Yield the state tensors that have one entry for each entry of ``parameter``."""
    for state in (one.state.get(parameter, {}) for one in with_inner(optimizer)):
        for value in state.values():
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
