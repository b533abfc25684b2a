"""The sparsifier in a loop that Accelerate prepares.

As with everything that Accelerate has prepared, ``step`` is called for every batch and does something only when the
optimizer does: ``accelerator.sync_gradients`` decides. A step that a gradient scaler skipped advances the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from granet.adapters.binding import Binding, refuse_sharded_type
from granet.adapters.optional import requires
from granet.adapters.ranks import check_equal
from granet.adapters.state import pack, unpack_into
from granet.errors import UsageError
from granet.methods.base import Method
from granet.topology import TopologyUpdate

with requires("Accelerate", extra="accelerate"):
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer


class PreparedSparsifier(Binding):
    """A sparsifier that an accelerator saves, restores and steps; made by ``prepare``."""

    _accelerator: Accelerator

    def step(self) -> TopologyUpdate | None:
        """Step the sparsifier. Call it after every ``optimizer.step()`` and before ``optimizer.zero_grad()``.

        Returns:
            The update; None when none was due or the batch was only accumulated.

        Raises:
            UsageError: whatever ``Sparsifier.step`` refuses.
            TrainingError: the ranks have different masks.
        """
        return self._advance() if self._accelerator.sync_gradients else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for ``accelerator.save_state``."""
        return pack(self.sparsifier)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state, for ``accelerator.load_state``, which loads model and optimizer first."""
        unpack_into(self.sparsifier, state, self._parameters, where="the state that Accelerate loaded")
        check_equal(self.sparsifier.masks, where=f"step {self.sparsifier.steps}")


def prepare(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: object,
    method: Method,
    *,
    total_steps: int,
    seed: int = 0,
    dense: Sequence[str] = (),
    compiled: bool = False,
) -> PreparedSparsifier:
    """Return a sparsifier for a prepared model and optimizer, registered for checkpointing.

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        sparsifier = granet.adapters.accelerate.prepare(accelerator, model, optimizer, method, total_steps=n)

    Args:
        accelerator: prepared the two.
        model, optimizer: as ``accelerator.prepare`` returned them.
        method: one of ``granet.methods``.
        total_steps: optimizer steps of the whole run; not batches, when gradients are accumulated.
        seed, dense, compiled: see ``granet.Sparsifier``.

    Raises:
        UsageError: whatever ``granet.Sparsifier`` refuses, an optimizer that was not prepared, or parameters that are
            spread over processes.
    """
    if not isinstance(optimizer, AcceleratedOptimizer):
        raise UsageError(
            "the optimizer was not prepared",
            got=type(optimizer).__name__,
            expected="what accelerator.prepare(model, optimizer) returned",
        )
    refuse_sharded_type(accelerator.distributed_type.name)
    prepared = PreparedSparsifier(method, seed=seed, dense=dense, compiled=compiled)
    prepared._accelerator = accelerator
    prepared._bind(model, optimizer, steps=total_steps)
    accelerator.register_for_checkpointing(prepared)
    return prepared
