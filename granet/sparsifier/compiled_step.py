"""An optimizer step for masked parameters as one compiled kernel, which applies the masks too.

A dense step moves 12 to 28 bytes a weight through memory. Reading a byte of mask too hardly costs more, while a
separate pass that masks gradients costs half as much again. So ``torch.compile`` makes one kernel of both, on a CPU or
a GPU, from the rules of ``torch.optim`` in ``granet.sparsifier.optimizer_rules``. It uses the optimizer's own state, so
that checkpoints are the same whether a step was compiled or not, and leaves gradients as they are. The compiler orders
sums, so that results differ from those of ``torch.optim`` in the last bits.

What changes during training, such as the learning rate, is passed in a tensor: nothing is compiled twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, groupby, repeat
from operator import is_
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from granet.errors import UsageError
from granet.masks.packed import PackedMasks
from granet.sparsifier.gradient_masking import INTEGERS, write_integers
from granet.sparsifier.optimizer_rules import RULES, Flags, Group, Rule, flags_of
from granet.sparsifier.optimizer_state import is_elementwise

Plan = tuple[tuple[str, ...], Flags]
"""The names of a parameter's slots, and its flags."""
BACKEND: Any = "inductor"


class _Members:
    """The masked parameters of a group and all that their step needs but gradients.

    Looking these up takes a twentieth of the time of a step, so they are cached until something changes.

    Args:
        group: of the optimizer.
        masks: of the masked parameters, by their identity.
        states: of the optimizer.
        rule: of the optimizer.

    Attributes:
        plan: that of each of them.
        complete: whether each has all of its state; else an ordinary step has to make it first.
        steps: the step counters, if the optimizer counts.
    """

    def __init__(self, group: Group, masks: Mapping[int, Tensor], states: Mapping[Tensor, Any], rule: Rule) -> None:
        self.group, self._rule, self._all = group, rule, list(group["params"])
        self.plan: Plan = (rule.slots(group), flags_of(group))
        self.parameters: list[nn.Parameter] = [parameter for parameter in self._all if id(parameter) in masks]
        self.masks = [masks[id(parameter)] for parameter in self.parameters]
        self.weights = [parameter.detach() for parameter in self.parameters]
        self._states: list[Any] = [states.get(parameter) for parameter in self.parameters]
        names = [*self.plan[0], *(["step"] if rule.counts else [])]
        self._slots = {name: [(state or {}).get(name) for state in self._states] for name in names}
        self.complete = all(slot is not None for slots in self._slots.values() for slot in slots)
        self.steps: list[Any] = self._slots.get("step", [])

    def is_current(self, group: Group, states: Mapping[Tensor, Any]) -> bool:
        """Whether ``group`` still has these parameters, with the same state and settings."""
        return (
            group is self.group
            and _same(group["params"], self._all)
            and self.plan == (self._rule.slots(group), flags_of(group))
            and _same(list(map(states.get, self.parameters)), self._states)
            and all(map(Tensor.is_set_to, self.weights, self.parameters))
            and self.complete
            and all(_same([state.get(name) for state in self._states], kept) for name, kept in self._slots.items())
        )

    @property
    def slots(self) -> list[tuple[Tensor, ...]]:
        """The slots of each parameter."""
        names = self.plan[0]
        return list(zip(*(self._slots[name] for name in names), strict=True)) if names else [()] * len(self.parameters)


class CompiledStep:
    """The compiled step of an optimizer for its masked parameters.

    Args:
        optimizer: of a type in ``RULES``.
        parameters: the masked ones of the optimizer, by name.

    Raises:
        UsageError: an optimizer without a rule, or one that would divide zero by zero.
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
        self._bound: list[_Members] = []
        self._numbers = torch.empty(0)
        self._written: dict[tuple[int, int, int], float] = {}
        self._kind: tuple[object, ...] = ()
        self._kernels: dict[tuple[object, ...], Callable[..., None]] = {}

    def set_masks(self, masks: PackedMasks) -> None:
        """Set the masks that the following steps apply."""
        write_integers(masks, self._masks, -1)

    @torch.no_grad()
    def run(self) -> bool:
        """Do the step; return False, with nothing done, if a parameter has no gradient or no optimizer state yet.

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
        gradients = [gradient for members in bound for p in members.parameters if (gradient := p.grad) is not None]
        if not all(members.complete for members in bound) or len(gradients) < len(self._numbers):
            return False
        self._write_numbers(bound)
        # Gradients have the types of their parameters: torch ensures that.
        key = self._kind, tuple(map(Tensor.stride, gradients))
        if key not in self._kernels:
            plans = [members.plan for members in bound for _ in members.weights]
            self._kernels[key] = _compiled(self._rule.update, plans)
        try:
            self._kernels[key](self._weights, gradients, self._spelled, self._slots, self._numbers)
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

    def _bind(self) -> list[_Members]:
        groups, states = self._optimizer.param_groups, self._optimizer.state
        kept = self._bound
        if len(kept) != len(groups) or not all(map(_Members.is_current, kept, groups, repeat(states))):
            self._bound = [_Members(group, self._own, states, self._rule) for group in groups]
            count = sum(len(members.weights) for members in self._bound)
            width = len(self._rule.numbers(groups[0], 1.0))
            self._numbers = torch.empty(count, width, dtype=self._dtype, device=next(iter(self._masks.values())).device)
            self._written.clear()
            self._weights, self._spelled, self._slots = (
                list(chain.from_iterable(parts))
                for parts in zip(*((own.weights, own.masks, own.slots) for own in self._bound), strict=True)
            )
            plans = [
                (names, tuple(flags.values()), len(own.weights)) for own in self._bound for names, flags in [own.plan]
            ]
            tensors = [*self._weights, *self._spelled, *chain.from_iterable(self._slots)]
            self._kind = (*plans, *((slot.dtype, slot.stride()) for slot in tensors if slot is not None))
        return self._bound

    def _write_numbers(self, bound: Sequence[_Members]) -> None:
        """Write the numbers that changed, once for neighbours that share them, without waiting for a device."""
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
        """Yield the step, a tensor if it is on a device, and how many consecutive parameters are at that step."""
        if not members.weights:
            return
        if not members.steps:
            yield None, len(members.weights)
        elif members.steps[0].device.type != "cpu":
            yield torch.stack(members.steps).double() + 1, len(members.weights)
        else:
            for step, same in groupby(torch.stack(members.steps).tolist()):
                yield step + 1, len(list(same))


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Whether both have the same objects."""
    return len(some) == len(others) and all(map(is_, some, others))


def _compiled(update: Callable[..., None], plans: Sequence[Plan]) -> Callable[..., None]:
    def kernel(
        weights: list[Tensor],
        gradients: list[Tensor],
        masks: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        numbers: Tensor,
    ) -> None:
        for index, (names, flags) in enumerate(plans):
            gradient = gradients[index]
            # The mask is all bits or none: as a truth value it would prevent vectorisation.
            masked = (gradient.view(INTEGERS[gradient.element_size()]) & masks[index]).view(gradient.dtype)
            if flags["maximize"]:
                masked = -masked
            named = dict(zip(names, slots[index], strict=True))
            update(weights[index], masked, named, numbers[index].unbind(), flags)

    # The compiler caches kernels by code object, up to a limit: each optimizer gets a code object of its own.
    own = FunctionType(kernel.__code__.replace(), globals(), closure=kernel.__closure__)
    # ``run`` has checked already what guards would check again in every step.
    options: dict[str, Any] = {"guard_filter_fn": lambda entries: [False] * len(entries)}
    if BACKEND == "inductor":
        options["size_asserts"] = False
    return torch.compile(own, fullgraph=True, dynamic=False, backend=BACKEND, options=options)


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException  # importing it takes a second

    return (TorchDynamoException,)
