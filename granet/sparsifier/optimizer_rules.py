"""The update rules of ``torch.optim`` for one parameter, written for a compiled kernel.

They use the optimizer's own state: see ``granet.sparsifier.compiled_step``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

Group = Mapping[str, Any]
Slots = Mapping[str, Tensor]
Numbers = Sequence[Tensor]
Flags = Mapping[str, bool]


@dataclass(frozen=True)
class Rule:
    """The update rule of an optimizer for one parameter, given the settings of its group.

    Attributes:
        slots: names of its state tensors that are shaped like the parameter.
        numbers: the scalars of the rule, from the group and, if the optimizer counts steps, the parameter's step.
        update: changes the parameter and its slots in place, given its masked gradient, the numbers and the flags.
        counts: whether the optimizer counts steps, in its state ``step``.
    """

    slots: Callable[[Group], tuple[str, ...]]
    numbers: Callable[[Group, Any], tuple[Any, ...]]
    update: Callable[[Tensor, Tensor, Slots, Numbers, Flags], None]
    counts: bool = True


def flags_of(group: Group) -> dict[str, bool]:
    """Return the settings of a group that decide which operations a rule has; a change of one compiles anew."""
    decays = bool(group["weight_decay"] != 0)
    decoupled = bool(group.get("decoupled_weight_decay", False))
    return {
        "maximize": bool(group["maximize"]),
        "shrinks": decays and decoupled,
        "decays": decays and not decoupled,
        "nesterov": bool(group.get("nesterov", False)),
    }


def _sgd(weight: Tensor, gradient: Tensor, slots: Slots, numbers: Numbers, flags: Flags) -> None:
    rate, decay, momentum, share = numbers
    if flags["decays"]:
        gradient = gradient + decay * weight
    if "momentum_buffer" in slots:
        buffer = slots["momentum_buffer"].mul_(momentum).add_(share * gradient)
        gradient = gradient + momentum * buffer if flags["nesterov"] else buffer
    weight.sub_(rate * gradient)


def _adam(weight: Tensor, gradient: Tensor, slots: Slots, numbers: Numbers, flags: Flags) -> None:
    rate, decay, first, keep, second, root, eps = numbers
    if flags["shrinks"]:
        weight.mul_(decay)
    if flags["decays"]:
        gradient = gradient + decay * weight
    mean = slots["exp_avg"]
    mean.add_(first * (gradient - mean))
    square = slots["exp_avg_sq"].mul_(keep).add_(second * gradient * gradient)
    if "max_exp_avg_sq" in slots:
        square = slots["max_exp_avg_sq"].copy_(torch.maximum(slots["max_exp_avg_sq"], square))
    weight.sub_(rate * mean / (square.sqrt() * root + eps))


def _rmsprop(weight: Tensor, gradient: Tensor, slots: Slots, numbers: Numbers, flags: Flags) -> None:
    rate, decay, keep, share, momentum, eps = numbers
    if flags["decays"]:
        gradient = gradient + decay * weight
    square = slots["square_avg"].mul_(keep).add_(share * gradient * gradient)
    if "grad_avg" in slots:
        mean = slots["grad_avg"]
        mean.add_(share * (gradient - mean))
        square = square - mean * mean
    gradient = gradient / (square.sqrt() + eps)
    if "momentum_buffer" in slots:
        gradient = slots["momentum_buffer"].mul_(momentum).add_(gradient)
    weight.sub_(rate * gradient)


def _sgd_numbers(group: Group, _: Any) -> tuple[Any, ...]:
    return group["lr"], group["weight_decay"], group["momentum"], 1 - group["dampening"]


def _adam_numbers(group: Group, step: Any) -> tuple[Any, ...]:
    rate, (first, second), decay = group["lr"], group["betas"], group["weight_decay"]
    if group.get("decoupled_weight_decay", False):
        decay = 1 - rate * decay
    root = (1 - second**step) ** -0.5
    return rate / (1 - first**step), decay, 1 - first, second, 1 - second, root, group["eps"]


def _rmsprop_numbers(group: Group, _: Any) -> tuple[Any, ...]:
    alpha = group["alpha"]
    return group["lr"], group["weight_decay"], alpha, 1 - alpha, group["momentum"], group["eps"]


_ADAM = Rule(
    slots=lambda group: ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])),
    numbers=_adam_numbers,
    update=_adam,
)
RULES: Mapping[type[Optimizer], Rule] = {
    SGD: Rule(
        slots=lambda group: ("momentum_buffer",) if group["momentum"] else (),
        numbers=_sgd_numbers,
        update=_sgd,
        counts=False,
    ),
    Adam: _ADAM,
    AdamW: _ADAM,
    RMSprop: Rule(
        slots=lambda group: (
            "square_avg",
            *(["momentum_buffer"] if group["momentum"] else []),
            *(["grad_avg"] if group["centered"] else []),
        ),
        numbers=_rmsprop_numbers,
        update=_rmsprop,
    ),
}
"""Optimizers whose step can be compiled: exactly these types, no subclasses."""
