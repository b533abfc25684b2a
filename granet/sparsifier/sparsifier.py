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
from collections.abc import Collection, Iterable, Mapping, Sequence
from glob import escape
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from granet.errors import UsageError, listing
from granet.layers.mask_effect import check_layers
from granet.layers.maskable import maskable, unwrap, without_masks_before
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
from granet.sparsifier.optimizer_state import check_in_optimizer, hooked, is_elementwise, shaped_state
from granet.sparsifier.outside_writes import OutsideWrites
from granet.sparsifier.sweep import Sweep
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
        model: on its final device; the weights of all layers in ``granet.layers.maskable`` are masked.
        optimizer: holds at least every masked parameter.
        method: one of ``granet.methods``.
        total_steps: optimizer steps of the whole run; schedules refer to it.
        seed: key of all random choices.
        dense: patterns of layers that are not masked, see ``granet.layers.maskable.maskable``.
        also: names of parameters that the network multiplies by outside of its layers, to mask them too; see
            ``granet.flops.matrices.find_matrices``.
        compiled: do the optimizer step of masked parameters by one compiled kernel, see
            ``granet.sparsifier.compiled_step``. The first step, in which the optimizer makes its state, is an ordinary
            one; the second one compiles, which can take a minute. For SGD, Adam, AdamW and RMSprop.

    Raises:
        UsageError: a pattern that matches no layer, a method that does not fit the layers or the number of steps,
            a masked parameter that the optimizer does not hold, an optimizer whose step cannot be compiled, a layer
            that does not multiply by its weight (``granet.layers.mask_effect``).
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
        also: Sequence[str] = (),
        compiled: bool = False,
    ) -> None:
        self.method, self.total_steps, self.seed = method, total_steps, _whole(seed, "seed")
        self._model, self._dense, self._also, self._compile = unwrap(model), dense, also, compiled
        self._parameters = maskable(model, dense, also)
        optimizer = hooked(optimizer)
        check_in_optimizer(optimizer, self._parameters)
        if not isinstance(method, Method):
            raise UsageError("not a method", got=repr(method), expected="one of granet.methods, with its settings")
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        check_method(method, shapes, total_steps)
        if method.final_density() < 1:
            check_layers(model, self._parameters)
        self._prepare(optimizer)
        self._explored = self._packed(draw_masks(method, shapes, seed=self.seed))
        self._adopt(self._explored)

    def _prepare(self, optimizer: Optimizer) -> None:
        """Make everything that follows from the settings, with nothing masked yet."""
        self._step = 0
        self._layout = Layout.of(self._parameters)
        self._device = only_device(self._parameters)
        self._masks = self._explored = PackedMasks.all(self._layout, self._device)
        decay = self.method.momentum_decay
        self._sums = None if decay is None else GradientSums(self._parameters, decay)
        masks_gradients = not self._compile and self.method.final_density() < 1
        self._gradient_masks = GradientMasks(self._parameters) if masks_gradients else None
        self._mask_afterwards = False
        self._optimizer_stepped = False
        self._overflow: Tensor | None = None
        self._hidden: list[tuple[nn.Parameter, Tensor]] = []
        self._handles: list[RemovableHandle] = []
        self._bind(optimizer)

    def _bind(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._elementwise = is_elementwise(optimizer)
        self._compiled = CompiledStep(optimizer, self._parameters) if self._compile else None
        self._outside_writes = OutsideWrites(self._model, self._parameters, optimizer)
        self._sweep: Sweep | None = None
        self._handles += [
            optimizer.register_step_pre_hook(self._before_optimizer_step),
            optimizer.register_step_post_hook(self._after_optimizer_step),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles are made of: model and optimizer, settings and state."""
        return {
            "model": self._model,
            "optimizer": self._optimizer,
            "method": self.method,
            "settings": (self.total_steps, self.seed, self._dense, self._also, self._compile),
            "parameters": self._parameters,
            "position": (self._optimizer_stepped, bool(self._handles)),
            "state": self.state_dict(),
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Bind a copy to the copies of model and optimizer: optimizers do not copy their hooks."""
        self._model, self.method, self._parameters = state["model"], state["method"], state["parameters"]
        self.total_steps, self.seed, self._dense, self._also, self._compile = state["settings"]
        self._prepare(state["optimizer"])
        self.load_state_dict(state["state"])
        self._optimizer_stepped, bound = state["position"]
        if not bound:
            self.close()

    def attach(self, optimizer: Optimizer) -> None:
        """Mask the steps of ``optimizer`` from now on, instead of those of the one that the sparsifier was made with.

        Raises:
            UsageError: it does not hold every masked parameter, or its step cannot be compiled.
        """
        optimizer = hooked(optimizer)
        check_in_optimizer(optimizer, self._parameters)
        self.close()
        self._bind(optimizer)
        if self._compiled is not None:
            self._compiled.set_masks(self._masks)
        self.apply_masks()

    @property
    def masks(self) -> Masks:
        """The present masks by parameter name; looking one up makes a new bool tensor on the parameter's device."""
        return self._masks

    @property
    @torch.no_grad()
    def density(self) -> float:
        """Weights that are active, or not zero all the same, over all weights that can be masked: in (0, 1].

        Weights outside the masks are zero after every step, so this is the density of the masks. Where somebody else
        wrote others in the meantime they count, until they are masked: at the next step or by ``apply_masks``. Looks
        at all weights and waits for the device; ``granet.masks.mapping.density(sparsifier.masks)`` does neither.
        """
        partial = [name for name, span in self._layout.items() if self._masks.counts[name] < span.size]
        stray = [(self._parameters[name].detach() != 0).logical_and_(~self._masks[name]).sum() for name in partial]
        active = sum(self._masks.counts.values()) + (int(torch.stack(stray).sum()) if stray else 0)
        return active / self._layout.size

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
    def step(self, *, skipped: bool = False) -> TopologyUpdate | None:
        """Advance the clock by one and change the topology if an update is due.

        Call it after every ``optimizer.step()`` and before the gradients are cleared.

        Args:
            skipped: whether the loop may have left this optimizer step out on purpose. A gradient scaler that skips a
                step needs no word: its gradients are not finite.

        Returns:
            The update, or None when none was due.

        Raises:
            UsageError: the optimizer did not step, or an update needs gradients and there are none.
        """
        if not (self._optimizer_stepped or skipped):
            self._check_overflow()
        stepped, self._optimizer_stepped = self._optimizer_stepped, False
        self._step += 1
        if self._outside_writes.in_weights():
            self.apply_masks()
        if self._sweep is None:
            multipliers = self._gradient_masks if self._gradient_masks is not None else self._masks
            self._sweep = Sweep(self._masked_tensors(state=self._elementwise), self._masks, multipliers.__getitem__)
        self._sweep.next()
        if self._sums is not None and stepped:
            self._sums.add(self._gradients(), unless=self._overflow)
        if not self.method.due(self._step, self.total_steps):
            return None
        update = self.propose(self._step)
        self._adopt(self._packed(update.masks), self._packed(update.survivors))
        self._explored = self._explored.union(self._masks)
        return update

    def apply_masks(self) -> None:
        """Zero weights and optimizer state outside the masks now, as for an evaluation of weights just loaded."""
        self._zero_outside(self._masks)
        self._outside_writes.remember()
        self._sweep = None

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

        Attention, recurrent and bilinear layers without masks in the state, as earlier versions wrote it, stay dense.

        Raises:
            UsageError: layers or shapes that are not those of this model.
        """
        if missing := {"step", "masks", "explored", "momenta"} - state.keys():
            raise UsageError("not the state of a sparsifier", got=f"no {', '.join(sorted(missing))}")
        absent = self._parameters.keys() - state["masks"].keys()
        if absent and absent <= without_masks_before(self._model, self._parameters):
            self._leave_dense(absent)
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

    def _leave_dense(self, names: Collection[str]) -> None:
        self._dense = (*self._dense, *map(escape, sorted(names)))
        self._parameters = {name: parameter for name, parameter in self._parameters.items() if name not in names}
        self.close()
        self._prepare(self._optimizer)

    def _packed(self, masks: Masks) -> PackedMasks:
        """Return ``masks`` packed in the memory formats of the parameters, on their device."""
        packed = PackedMasks.of(masks, self._layout)
        return packed if packed.bits.device == self._device else PackedMasks(self._layout, packed.bits.to(self._device))

    def _adopt(self, masks: PackedMasks, survivors: PackedMasks | None = None) -> None:
        """Make ``masks`` the present ones and zero weights and state outside ``survivors``."""
        self._masks = masks
        self._zero_outside(masks if survivors is None else survivors)
        self._outside_writes.remember()
        self._sweep = None
        if self._gradient_masks is None and self._compiled is None and masking.density(masks) < 1:
            self._gradient_masks = GradientMasks(self._parameters)
        for masked in (self._gradient_masks, self._compiled):
            if masked is not None:
                masked.set_masks(masks)

    def _zero_outside(self, masks: PackedMasks) -> None:
        zero_outside(self._masked_tensors(state=True), masks)

    def _masked_tensors(self, *, state: bool) -> dict[str, list[Tensor]]:
        """Return the weight of each layer, and with ``state`` what the optimizer keeps for it."""
        return {
            name: [parameter, *(shaped_state(self._optimizer, parameter) if state else ())]
            for name, parameter in self._parameters.items()
        }

    def _before_optimizer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._check_call()
        if self._outside_writes.in_weights() or self._outside_writes.in_slots():
            self.apply_masks()
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
        if self._outside_writes.remember():
            self._sweep = None

    def _check_call(self) -> None:
        if self._optimizer_stepped:
            raise UsageError(
                "optimizer.step() was called twice without sparsifier.step() between",
                where=f"step {self._step + 1}",
                remedy="call sparsifier.step() after every optimizer.step(); of two sparsifiers on one optimizer, "
                "close() the one that is not used any more",
            )
        self._outside_writes.check_layers()
        if self._outside_writes.in_groups():
            check_in_optimizer(self._optimizer, self._parameters)
            self._check_new_layers()

    def _check_new_layers(self) -> None:
        """Raise UsageError if the model has layers that could be masked and were not there before."""
        known = {id(parameter) for parameter in self._parameters.values()}
        new = [
            name
            for name, parameter in maskable(self._model, self._dense, self._also).items()
            if id(parameter) not in known
        ]
        if new:
            raise UsageError(
                "the layer was added after the sparsifier was made, and is neither masked nor counted",
                where=listing(new),
                remedy="add layers first, then make optimizer and sparsifier",
            )

    def _check_overflow(self) -> None:
        """Raise UsageError unless the step that the optimizer did not take had gradients that are not finite."""
        grouped = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in grouped if parameter.grad is not None]
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise UsageError(
                "sparsifier.step() was called before optimizer.step()",
                where=f"step {self._step + 1}",
                got=f"no step of the {type(self._optimizer).__name__} that the sparsifier was made with",
                remedy="call loss.backward(), optimizer.step() and sparsifier.step(), in this order; hand another "
                "optimizer to sparsifier.attach(); after a step that the loop leaves out call "
                "sparsifier.step(skipped=True)",
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
