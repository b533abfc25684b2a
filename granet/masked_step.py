"""An optimizer's step for masked parameters as one compiled kernel, which reads the masks on its way.

A dense step moves 12 to 28 bytes a weight through memory; one that also reads a byte of mask hardly costs more than
that, where masking the gradients in a pass of their own costs half as much again. So ``torch.compile`` makes one kernel
of both, for a CPU or a GPU. What it computes is written down here once for each optimizer, as ``torch.optim`` has it,
and reads and writes the optimizer's own state: checkpoints do not know whether a step was compiled. Gradients are left
as they are. Sums are rounded as the compiler orders them, so that results differ from those of ``torch.optim`` in the
last bits.

What changes while training goes on, the learning rate above all, is handed over in a tensor: nothing is compiled twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from granet.errors import UsageError
from granet.optimizer_state import is_elementwise
from granet.packed import PackedMasks
from granet.zeroing import INTEGERS, spell_out

Group = Mapping[str, Any]
Slots = Mapping[str, Tensor]
Numbers = Sequence[Tensor]
Flags = Mapping[str, bool]
Plan = tuple[tuple[str, ...], Flags]
"""The names of a parameter's slots, and its flags."""
BACKEND: Any = "inductor"


@dataclass(frozen=True)
class Rule:
    """What an optimizer does to one parameter, given the settings of its group.

    Attributes:
        slots: names of its state tensors that are shaped like the parameter.
        flags: what decides which operations there are. A change of one compiles anew.
        numbers: what is computed with, given also, if the optimizer counts them, which step of this parameter it is.
        update: changes the parameter and its slots in place, given its masked gradient, the numbers and the flags.
        counts: whether it counts the steps, in its state ``step``.
    """

    slots: Callable[[Group], tuple[str, ...]]
    flags: Callable[[Group], dict[str, bool]]
    numbers: Callable[[Group, Any], tuple[Any, ...]]
    update: Callable[[Tensor, Tensor, Slots, Numbers, Flags], None]
    counts: bool = True


def _flags(group: Group) -> dict[str, bool]:
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
    flags=_flags,
    numbers=_adam_numbers,
    update=_adam,
)
RULES: Mapping[type[Optimizer], Rule] = {
    SGD: Rule(
        slots=lambda group: ("momentum_buffer",) if group["momentum"] else (),
        flags=_flags,
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
        flags=_flags,
        numbers=_rmsprop_numbers,
        update=_rmsprop,
    ),
}
"""The optimizers whose step can be compiled: these types, not what is derived from them."""


class _Members(NamedTuple):
    """The masked parameters of a group, all that their step needs, and what is the same for all of them."""

    group: Group
    plan: Plan
    tensors: list[Tensor]
    """Of each parameter in turn: itself, its gradient, its mask and its slots."""
    steps: list[Tensor]
    """The counters of those whose optimizer counts."""
    number: int


class CompiledStep:
    """The step of an optimizer for its masked parameters.

    Args:
        optimizer: of a type that ``RULES`` has.
        parameters: the masked ones, by name, all held by ``optimizer``.

    Raises:
        UsageError: an optimizer that there is no rule for, or one that would divide zero by zero.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
        rule = RULES.get(type(optimizer))
        if rule is None or not is_elementwise(optimizer):
            raise UsageError(
                "the step of this optimizer cannot be compiled",
                where=type(optimizer).__name__,
                got="eps=0" if rule is not None else None,
                expected=f"one of {', '.join(kind.__name__ for kind in RULES)}, with an eps above 0",
                remedy="leave compiled at False",
            )
        self._optimizer, self._rule = optimizer, rule
        self._masks = {
            name: torch.empty_like(parameter, dtype=torch.int8, requires_grad=False)
            for name, parameter in parameters.items()
        }
        self._own = {id(parameter): self._masks[name] for name, parameter in parameters.items()}
        exact = any(parameter.dtype == torch.float64 for parameter in parameters.values())
        self._dtype = torch.float64 if exact else torch.float32
        self._numbers = torch.empty(0)
        self._written: dict[tuple[int, int, int], float] = {}
        self._kernels: dict[tuple[object, ...], Callable[[list[Tensor], Tensor], None]] = {}

    def follow(self, masks: PackedMasks) -> None:
        """Masks as ``masks`` say from now on."""
        spell_out(masks, self._masks, -1)

    def run(self) -> bool:
        """Does the step; False, with nothing done, when a parameter has no gradient or no optimizer state yet.

        Raises:
            UsageError: there is no compiler, or gradients that a scaler left to the optimizer to unscale.
        """
        if getattr(self._optimizer, "grad_scale", None) is not None:
            raise UsageError(
                "a compiled step cannot unscale gradients",
                where=type(self._optimizer).__name__,
                remedy="make the optimizer with fused=False, train in bf16, or leave compiled at False",
            )
        bound = self._bind()
        if bound is None:
            return False
        count = sum(members.number for members in bound)
        if len(self._numbers) != count:
            width = len(self._rule.numbers(bound[0].group, 1.0))
            self._numbers = torch.empty(count, width, dtype=self._dtype, device=bound[0].tensors[0].device)
            self._written.clear()
        self._write_numbers(bound)
        key = tuple(
            (names, tuple(flags.values()), members.number) for members in bound for names, flags in [members.plan]
        )
        if key not in self._kernels:
            plans = [members.plan for members in bound for _ in range(members.number)]
            self._kernels[key] = _compiled(self._rule.update, plans)
        try:
            self._kernels[key]([tensor for members in bound for tensor in members.tensors], self._numbers)
        except _compiler_errors() as error:
            cause = getattr(error, "inner_exception", error)
            lines = (line.strip() for line in str(cause).splitlines())
            raise UsageError(
                "the optimizer step cannot be compiled on this machine",
                where=type(self._optimizer).__name__,
                got=next(filter(None, lines), type(cause).__name__),
                remedy="it needs a C++ compiler, such as g++, and on a GPU Triton; or leave compiled at False",
            ) from error
        if self._rule.counts:
            torch._foreach_add_([step for members in bound for step in members.steps], 1)
        return True

    def _bind(self) -> list[_Members] | None:
        bound, states = [], self._optimizer.state
        for group in self._optimizer.param_groups:
            names, flags = self._rule.slots(group), self._rule.flags(group)
            tensors: list[Tensor] = []
            steps: list[Tensor] = []
            number = 0
            for parameter in group["params"]:
                if (mask := self._own.get(id(parameter))) is None:
                    continue
                state = states.get(parameter, {})
                slots = [state.get(name) for name in names]
                if parameter.grad is None or any(slot is None for slot in slots):
                    return None
                if self._rule.counts:
                    if "step" not in state:
                        return None
                    steps.append(state["step"])
                tensors.extend((parameter.detach(), parameter.grad, mask, *slots))
                number += 1
            if number:
                bound.append(_Members(group, (names, flags), tensors, steps, number))
        return bound

    def _write_numbers(self, bound: Sequence[_Members]) -> None:
        """Writes what changed, at once for all neighbours that share it, and without waiting for a device."""
        begin = 0
        for members in bound:
            for step, count in self._steps(members):
                end = begin + count
                for column, number in enumerate(self._rule.numbers(members.group, step)):
                    if isinstance(number, Tensor):
                        self._numbers[begin:end, column].copy_(number)
                        self._written.pop((begin, end, column), None)
                    elif self._written.get((begin, end, column)) != number:
                        self._numbers[begin:end, column].fill_(number)
                        self._written[begin, end, column] = number
                begin = end

    def _steps(self, members: _Members) -> Iterator[tuple[Any, int]]:
        """Which step this is, and for how many of the parameters: a number, or where only the device knows a tensor."""
        if not members.steps:
            yield None, members.number
        elif members.steps[0].device.type != "cpu":
            yield torch.stack(members.steps).double() + 1, members.number
        else:
            for step, same in groupby(map(float, members.steps)):
                yield step + 1, len(list(same))


def _compiled(update: Callable[..., None], plans: Sequence[Plan]) -> Callable[[list[Tensor], Tensor], None]:
    def kernel(tensors: list[Tensor], numbers: Tensor) -> None:
        begin = 0
        for index, (names, flags) in enumerate(plans):
            weight, gradient, mask, *slots = tensors[begin : begin + 3 + len(names)]
            begin += 3 + len(names)
            # All bits or none; a mask read as a truth value would cost the kernel its vectors.
            masked = (gradient.view(INTEGERS[gradient.element_size()]) & mask).view(gradient.dtype)
            if flags["maximize"]:
                masked = -masked
            update(weight, masked, dict(zip(names, slots, strict=True)), numbers[index].unbind(), flags)

    # The compiler keeps what it made with the code; that of one optimizer is not to count against the limit of another.
    own = FunctionType(kernel.__code__.replace(), globals(), closure=kernel.__closure__)
    # Sizes and strides have been looked at by the time that a kernel checks them once more.
    options: dict[str, Any] | None = {"size_asserts": False} if BACKEND == "inductor" else None
    return torch.compile(own, fullgraph=True, dynamic=False, backend=BACKEND, options=options)


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException  # importing it takes a second, which others need not wait

    return (TorchDynamoException,)
