"""The sparsifier as a callback of Lightning's Trainer.

Where it acts: the optimizer steps inside ``training_step``'s batch and gradients are cleared while the next one is
computed, so ``on_train_batch_end`` comes right after the one and before the other. ``trainer.global_step`` says whether
the optimizer stepped: accumulated batches do not advance the clock, a step that a gradient scaler skipped does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from granet.adapters.absent import needed
from granet.adapters.binding import Binding, Bound, advance, plain, sharded
from granet.adapters.state import pack
from granet.errors import UsageError
from granet.methods.base import Method

with needed("Lightning", extra="lightning", torchvision=True):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy


class SparsifierCallback(Bound, Callback):  # type: ignore[misc]  # of a library that type checkers do not follow
    """Keeps the network of a LightningModule sparse while it trains.

        trainer = lightning.Trainer(callbacks=[SparsifierCallback(granet.methods.GraNet(density=0.1))])

    The module has one optimizer. In manual optimization a batch is one optimizer step at most, and gradients are
    cleared before it, not after.

    Args:
        method: one of ``granet.methods``.
        total_steps: optimizer steps of the whole run; ``trainer.estimated_stepping_batches`` when left out.
        seed: key of all random choices.
        dense: patterns of layers that are not masked, see ``granet.layers.maskable.maskable``.
        module: where the network is inside the LightningModule, such as ``"net"``. Names of layers start there, and
            random masks are keyed by them. All of the LightningModule when left out.
        compiled: see ``granet.Sparsifier``.

    Raises:
        UsageError: not a method; and at the start of training whatever does not fit: several optimizers, a strategy
            that shards parameters, no number of steps, a checkpoint without a sparsifier or with another one.
    """

    def __init__(
        self,
        method: Method,
        *,
        total_steps: int | None = None,
        seed: int = 0,
        dense: Sequence[str] = (),
        module: str = "",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self._binding = Binding(
            method=method, total_steps=total_steps, seed=seed, dense=dense, module=module, compiled=compiled
        )
        self._loaded: Mapping[str, Any] | None = None
        self._closure_handle: RemovableHandle | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the sparsifier, when model, optimizer and the state of this callback have been restored."""
        strategy = type(trainer.strategy).__name__
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise sharded("a strategy that spreads parameters over processes", strategy)
        if len(trainer.optimizers) != 1:
            raise UsageError(
                "masks need one optimizer that holds all of the network",
                where=type(pl_module).__name__,
                got=f"{len(trainer.optimizers)} optimizers",
            )
        state = self._loaded
        if state is None and trainer.global_step > 0 and self._sparsifier is not None:  # fit() goes on
            state = pack(self._sparsifier)
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
        optimizer = plain(trainer.optimizers[0])
        if _calls_its_closure_first(optimizer):
            self._closure_handle = optimizer.register_step_pre_hook(_run_closure)  # before the sparsifier's hook
        self._sparsifier = self._binding.bind(pl_module, optimizer, steps=self._steps(trainer), state=state)
        self._loaded = None

    def on_train_batch_end(self, trainer: Trainer, *_: object, **__: object) -> None:
        """Steps the sparsifier if the optimizer has stepped."""
        if trainer.global_step > self.sparsifier.steps:
            advance(self.sparsifier)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002  the host's
        """Lets go of the optimizer."""
        self._release()

    def on_exception(self, *_: object, **__: object) -> None:
        """Lets go of the optimizer."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """What goes into Lightning's checkpoint: nothing before training has begun."""
        if self._sparsifier is not None:
            return pack(self._sparsifier)
        return dict(self._loaded or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what a checkpoint held until training starts."""
        self._loaded = state_dict or None

    def _steps(self, trainer: Trainer) -> int:
        if self._binding.total_steps is not None:
            return self._binding.total_steps
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise UsageError(
                "the trainer does not know how many steps it will take",
                where="total_steps",
                got=steps,
                remedy="give max_steps or max_epochs to the Trainer, or total_steps to the callback",
            )
        return int(steps)

    def _release(self) -> None:
        if self._closure_handle is not None:
            self._closure_handle.remove()
            self._closure_handle = None
        if self._sparsifier is not None:
            self._sparsifier.close()


def _calls_its_closure_first(optimizer: Optimizer) -> bool:
    """Whether calling the closure in front of the step comes to the same: so in torch's own, but for one."""
    return type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)


def _run_closure(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turns Lightning's ``step(closure)`` into backward and ``step()``, the order that the sparsifier knows.

    A step that an update replaces cannot be left out otherwise. Nobody misses the result of the closure: Lightning
    keeps it beside the optimizer.
    """
    closure = kwargs.pop("closure", args[1] if len(args) > 1 else None)
    if closure is not None:
        closure()
    return (optimizer,), kwargs
