"""The one stateful object: masks and step, bound to a model and its optimizer.

What happens in one step of training, in this order:

1. forward and backward, dense gradients;
2. ``optimizer.step()``. Just before it, gradients of inactive weights are zeroed: for optimizers that work element
   by element, zero weight, state and gradient stay zero, so one pass over the gradients keeps everything masked.
   Where that is not enough (other optimizers, closures) or the dense gradient is needed afterwards (an update that
   grows by gradient, a running sum of gradients), weights and state are masked just after it instead. With
   ``compiled``, one kernel does the step and the masking. A RigL update takes the place of this step;
3. ``sparsifier.step()``: the clock advances and, when an update is due, the topology changes. Weights and optimizer
   state of everything that was not active all the way become zero.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from granet.errors import UsageError, listing
from granet.layers.maskable import maskable
from granet.masks import mapping as masking
from granet.masks.layout import Layout, only_device
from granet.masks.mapping import Masks
from granet.masks.packed import PackedMasks
from granet.methods.base import Method
from granet.methods.snapshot import Snapshot
from granet.methods.update import check_method, draw_masks, update_topology
from granet.sparsifier.compiled_step import CompiledStep
from granet.sparsifier.gradient_masking import GradientMasks, zero_outside
from granet.sparsifier.gradient_momentum import GradientSums
from granet.sparsifier.optimizer_state import check_in_optimizer, is_elementwise, shaped_state
from granet.topology import TopologyUpdate


class Sparsifier:
    """Keeps a model sparse while it trains.

        sparsifier = granet.Sparsifier(model, optimizer, granet.methods.GraNet(density=0.1), total_steps=n)
        ...
        loss.backward()
        optimizer.step()
        sparsifier.step()

    Works with any ``torch.optim`` optimizer, with parameter groups, tied parameters, gradient accumulation (one
    call for each ``optimizer.step()``), autocast and ``GradScaler``. Clear gradients after ``step``, not before.
    Gradients are dense until ``optimizer.step()``: clipping by norm counts those of inactive weights too.

    Args:
        model: on its final device; all convolution and linear weights are masked.
        optimizer: holds at least every masked parameter.
        method: one of ``granet.methods``.
        total_steps: optimizer steps of the whole run; schedules refer to it.
        seed: key of all random choices.
        dense: patterns of layers that are not masked, see ``granet.layers.maskable.maskable``.
        compiled: do the optimizer step of masked parameters by one compiled kernel, see
            ``granet.sparsifier.compiled_step``. The first step, in which the optimizer makes its state, is an ordinary
            one; the second one compiles, which can take a minute. For SGD, Adam, AdamW and RMSprop.

    Raises:
        UsageError: a pattern that matches no layer, a method that does not fit the layers or the number of steps,
            a masked parameter that the optimizer does not hold, an optimizer whose step cannot be compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: Method,
        *,
        total_steps: int,
        seed: int = 0,
        dense: Sequence[str] = (),
        compiled: bool = False,
    ) -> None:
        self.method, self.total_steps, self.seed = method, total_steps, _whole(seed, "seed")
        self._optimizer = optimizer
        self._parameters = maskable(model, dense)
        check_in_optimizer(optimizer, self._parameters)
        if not isinstance(method, Method):
            raise UsageError("not a method", got=repr(method), expected="one of granet.methods, with its settings")
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        check_method(method, shapes, total_steps)

        self._step = 0
        self._layout = Layout.of(self._parameters)
        self._device = only_device(self._parameters)
        decay = method.momentum_decay
        self._sums = None if decay is None else GradientSums(self._parameters, decay)
        self._elementwise = is_elementwise(optimizer)
        self._compiled = CompiledStep(optimizer, self._parameters) if compiled else None
        masks_gradients = not compiled and method.final_density() < 1
        self._gradient_masks = GradientMasks(self._parameters) if masks_gradients else None
        self._mask_afterwards = False
        self._optimizer_stepped = False
        self._overflow: Tensor | None = None
        self._hidden: list[tuple[nn.Parameter, Tensor]] = []
        self._explored = self._packed(draw_masks(method, shapes, seed=self.seed))
        self._adopt(self._explored)
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self._before_optimizer_step),
            optimizer.register_step_post_hook(self._after_optimizer_step),
        ]

    @property
    def masks(self) -> Masks:
        """The present masks by parameter name; looking one up makes a new bool tensor on the parameter's device."""
        return self._masks

    @property
    def density(self) -> float:
        """Active weights over masked weights, in (0, 1]."""
        return masking.density(self._masks)

    @property
    def steps(self) -> int:
        """Number of calls of ``step``: the clock of all schedules."""
        return self._step

    @property
    def explored(self) -> Masks:
        """Masks of the weights that have been active at some time."""
        return self._explored

    @property
    def momenta(self) -> Mapping[str, Tensor]:
        """Running sums of dense gradients, for methods that grow by momentum; empty for all others."""
        return {} if self._sums is None else dict(self._sums.tensors)

    @property
    def exploration_rate(self) -> float:
        """Weights that have been active at some time over all masked weights: R_s of arXiv 2102.02887."""
        return masking.density(self._explored)

    @torch.no_grad()
    def step(self) -> TopologyUpdate | None:
        """Advance the clock by one and change the topology if an update is due.

        Call it after every ``optimizer.step()`` and before the gradients are cleared.

        Returns:
            The update, or None when none was due.

        Raises:
            UsageError: an update needs gradients and there are none.
        """
        self._check_order()
        stepped, self._optimizer_stepped = self._optimizer_stepped, False
        self._step += 1
        if self._sums is not None and stepped:
            self._sums.add(self._gradients(), unless=self._overflow)
        if not self.method.due(self._step, self.total_steps):
            return None
        update = self.propose(self._step)
        self._adopt(self._packed(update.masks), self._packed(update.survivors))
        self._explored = self._explored.union(self._masks)
        return update

    def propose(self, step: int) -> TopologyUpdate:
        """Return the update that the method would make at ``step`` of the present weights and gradients."""
        needs_gradients = self.method.needs_gradients(step, self.total_steps)
        weights = Snapshot(
            step=step,
            total_steps=self.total_steps,
            weights={name: parameter.detach() for name, parameter in self._parameters.items()},
            gradients=self._gradients() if needs_gradients else {},
            momenta=self.momenta,
            masks=self._masks,
            seed=self.seed,
        )
        return update_topology(self.method, weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs besides model and optimizer: a number and copies of tensors."""
        return {
            "step": self._step,
            "masks": _cloned(self._masks),
            "explored": _cloned(self._explored),
            "momenta": _cloned(self.momenta),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; load model and optimizer first.

        Raises:
            UsageError: layers or shapes that are not those of this model.
        """
        if missing := {"step", "masks", "explored", "momenta"} - state.keys():
            raise UsageError("not the state of a sparsifier", got=f"no {', '.join(sorted(missing))}")
        for field, mine in (("masks", self._masks), ("explored", self._explored), ("momenta", self.momenta)):
            theirs, expected = masking.shapes(state[field]), masking.shapes(mine)
            if theirs != expected:
                different = sorted(name for name, _ in theirs.items() ^ expected.items())
                raise UsageError(
                    "the state belongs to other layers", where=field, got=", ".join(different[:5]), expected="the same"
                )
        self._explored = self._packed(state["explored"])
        for name, tensor in self.momenta.items():
            tensor.copy_(state["momenta"][name])
        self._step = int(state["step"])
        self._adopt(self._packed(state["masks"]))

    def close(self) -> None:
        """Remove the optimizer hooks. Weights keep their values; masks are no longer enforced."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _packed(self, masks: Masks) -> PackedMasks:
        """Return ``masks`` packed in the memory formats of the parameters, on their device."""
        packed = PackedMasks.of(masks, self._layout)
        return packed if packed.bits.device == self._device else PackedMasks(self._layout, packed.bits.to(self._device))

    def _adopt(self, masks: PackedMasks, survivors: PackedMasks | None = None) -> None:
        """Make ``masks`` the present ones and zero weights and state outside ``survivors``."""
        self._masks = masks
        self._zero_outside(masks if survivors is None else survivors)
        if self._gradient_masks is None and self._compiled is None and masking.density(masks) < 1:
            self._gradient_masks = GradientMasks(self._parameters)
        for masked in (self._gradient_masks, self._compiled):
            if masked is not None:
                masked.set_masks(masks)

    def _zero_outside(self, masks: PackedMasks) -> None:
        zero_outside({n: [p, *shaped_state(self._optimizer, p)] for n, p in self._parameters.items()}, masks)

    def _before_optimizer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._check_call()
        upcoming = self._step + 1
        due = self.method.due(upcoming, self.total_steps)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if due and self.method.replaces_step:
            if closure is not None:
                raise UsageError(
                    f"{type(self.method).__name__} replaces optimizer steps, which cannot be done with a closure",
                    where=type(optimizer).__name__,
                    remedy="call backward() yourself and optimizer.step() without a closure",
                )
            self._hide_gradients()
            return
        if self._compiled is not None:
            if closure is not None:
                raise UsageError("a compiled step cannot be done with a closure", where=type(optimizer).__name__)
            if self._compiled.run():
                self._hide_gradients(self._parameters.values())
            else:
                self._mask_afterwards = True
            return
        needs_dense = due and self.method.needs_gradients(upcoming, self.total_steps)
        if needs_dense or closure is not None or self._sums is not None or not self._elementwise:
            self._mask_afterwards = True
        elif self._gradient_masks is not None:
            self._gradient_masks.apply()

    def _after_optimizer_step(self, optimizer: Optimizer, *_: object) -> None:
        self._optimizer_stepped = True
        # On overflow GradScaler calls a fused optimizer all the same, which sees the mark and does nothing.
        self._overflow = getattr(optimizer, "found_inf", None)
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._hidden.clear()
        if self._mask_afterwards:
            self._mask_afterwards = False
            self._zero_outside(self._masks)

    def _check_call(self) -> None:
        if self._optimizer_stepped:
            raise UsageError(
                "optimizer.step() was called twice without sparsifier.step() between",
                where=f"step {self._step + 1}",
                remedy="call sparsifier.step() after every optimizer.step(); of two sparsifiers on one optimizer, "
                "close() the one that is not used any more",
            )
        name, parameter = next(iter(self._parameters.items()))
        if parameter.device != self._device:
            raise UsageError(
                "the model moved after the sparsifier was made",
                where=name,
                got=parameter.device,
                expected=self._device,
                remedy="move the model first, then make optimizer and sparsifier",
            )

    def _check_order(self) -> None:
        """Raise UsageError if the first step is called too early; later ones may follow a skipped optimizer step."""
        if self._step or self._optimizer_stepped:
            return
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise UsageError(
                "sparsifier.step() was called before optimizer.step()",
                where="the first step",
                remedy="call loss.backward(), optimizer.step() and sparsifier.step(), in this order",
            )

    def _hide_gradients(self, parameters: Iterable[nn.Parameter] | None = None) -> None:
        """Take gradients away, so that the optimizer does nothing at all: no decay, no momentum, no step count."""
        if parameters is None:
            parameters = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        for parameter in parameters:
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def _gradients(self) -> dict[str, Tensor]:
        gradients = {name: parameter.grad for name, parameter in self._parameters.items()}
        missing = [name for name, gradient in gradients.items() if gradient is None]
        if missing:
            raise UsageError(
                "there is no gradient to grow by",
                where=listing(missing),
                got=f"None at step {self._step}",
                remedy="call sparsifier.step() after optimizer.step() and before zero_grad(), and keep layers dense "
                "that the loss does not reach",
            )
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise UsageError("not a whole number", where=where, got=repr(value))
    return operator.index(value)
