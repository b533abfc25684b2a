"""The sparsifier as a callback of Lightning's Trainer.

Where it acts: the optimizer steps inside ``training_step``'s batch and gradients are cleared while the next one is
computed, so ``on_train_batch_end`` comes right after the one and before the other. ``trainer.global_step`` says whether
the optimizer stepped: accumulated batches do not advance the clock, a step that a gradient scaler skipped does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from granet.adapters.binding import Binding, sharded, steps_of_a_trial
from granet.adapters.optional import requires
from granet.adapters.state import pack
from granet.errors import UsageError
from granet.sparsifier.optimizer_state import hooked

with requires("Lightning", extra="lightning", torchvision=True):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy


class SparsifierCallback(Binding, Callback):  # type: ignore[misc]  # of a library that type checkers do not follow
    """Keeps the network of a LightningModule sparse while it trains.

        trainer = lightning.Trainer(callbacks=[SparsifierCallback(granet.methods.GraNet(density=0.1))])

    The module has one optimizer. In manual optimization a batch is one optimizer step at most, and gradients are
    cleared before it, not after. Arguments are those of ``granet.adapters.binding.Binding``; ``total_steps`` is
    ``trainer.estimated_stepping_batches`` when left out. With ``fast_dev_run`` these are more, if the method has no
    schedule for so few: a trial has no end.

    Raises:
        UsageError: not a method; and at the start of training whatever does not fit: several optimizers, a strategy
            that shards parameters, no number of steps, a checkpoint without a sparsifier or with another one.
    """

    _loaded: Mapping[str, Any] | None = None
    _closure_handle: RemovableHandle | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the sparsifier, once model, optimizer and the state of this callback have been restored."""
        strategy = type(trainer.strategy).__name__
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise sharded("a strategy that spreads parameters over processes", strategy)
        if len(trainer.optimizers) != 1:
            raise UsageError(
                "masks need one optimizer that holds all of the network",
                where=type(pl_module).__name__,
                got=f"{len(trainer.optimizers)} optimizers",
            )
        state, where = self._loaded, "the checkpoint"
        if state is None and trainer.global_step > 0 and self._sparsifier is not None:  # fit() is called again
            state, where = pack(self.sparsifier), "the fit before"
        found = "no sparsifier" if state is None else f"step {state.get('step')}"
        if (0 if state is None else state.get("step")) != trainer.global_step:
            raise UsageError(
                "the trainer and the sparsifier are not at the same step",
                where="on_train_start",
                got=found,
                expected=f"step {trainer.global_step}",
                remedy="resume from a checkpoint that was saved with this callback, between two batches; to start from "
                "trained weights, load them into the model and fit without ckpt_path",
            )
        self._release()
        optimizer = hooked(trainer.optimizers[0])
        if _calls_its_closure_first(optimizer):
            self._closure_handle = optimizer.register_step_pre_hook(_run_closure)  # before the sparsifier's hook
        self._bind(pl_module, optimizer, steps=self._steps(trainer, pl_module), state=state, where=where)
        self._loaded = None

    def on_train_batch_end(self, trainer: Trainer, _: LightningModule, outputs: object, *__: object) -> None:
        """Step the sparsifier if the optimizer has stepped."""
        if trainer.global_step > self.sparsifier.steps:
            self._advance(skipped=not outputs)  # Lightning counts a step that training_step left out too

    def on_fit_end(self, *_: object, **__: object) -> None:
        """Warn if other callbacks left weights outside the masks, as those do that average weights."""
        self._warn_if_not_masked("at the end of fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002  the host's
        """Remove the optimizer hooks."""
        self._release()

    def on_exception(self, *_: object, **__: object) -> None:
        """Remove the optimizer hooks."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for Lightning's checkpoint; empty before training has begun."""
        return pack(self.sparsifier) if self._sparsifier is not None else dict(self._loaded or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until training starts."""
        self._loaded = state_dict or None

    def _steps(self, trainer: Trainer, pl_module: LightningModule) -> int:
        if self._total_steps is not None:
            return self._total_steps
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise UsageError(
                "the trainer does not know how many steps it will take",
                where="total_steps",
                got=steps,
                remedy="give max_steps or max_epochs to the Trainer, or total_steps to the callback",
            )
        if trainer.fast_dev_run:
            self._find_parameters(pl_module)
            return steps_of_a_trial(self._method, self._parameters, int(steps))
        return int(steps)

    def _release(self) -> None:
        if self._closure_handle is not None:
            self._closure_handle.remove()
            self._closure_handle = None
        if self._sparsifier is not None:
            self._sparsifier.close()


def _calls_its_closure_first(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's step begins by calling its closure: so in those of torch, except L-BFGS."""
    return type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)


def _run_closure(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call the closure and drop it, so that ``step(closure)`` becomes backward and ``step()``.

    A step that an update replaces could not be left out otherwise. Lightning keeps the closure's result itself.
    """
    closure = kwargs.pop("closure", args[1] if len(args) > 1 else None)
    if closure is not None:
        closure()
    return (optimizer,), kwargs
