"""The sparsifier in a loop that Accelerate prepares.

As with everything that Accelerate has prepared, ``step`` is called for every batch and does something only when the
optimizer does: ``accelerator.sync_gradients`` decides. A step that a gradient scaler skipped advances the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from granet.adapters.absent import needed
from granet.adapters.binding import Binding, advance, plain, sharded
from granet.adapters.ranks import check_equal
from granet.adapters.state import pack, unpack_into
from granet.errors import UsageError
from granet.layers.maskable import maskable
from granet.methods.base import Method
from granet.sparsifier import Sparsifier
from granet.topology import TopologyUpdate

with needed("Accelerate", extra="accelerate"):
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA")


class PreparedSparsifier:
    """A sparsifier that an accelerator saves, restores and lets step; ``prepare`` makes it."""

    def __init__(
        self, accelerator: Accelerator, sparsifier: Sparsifier, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self._accelerator, self._parameters = accelerator, parameters
        self.sparsifier = sparsifier

    def step(self) -> TopologyUpdate | None:
        """Call it after every ``optimizer.step()`` and before ``optimizer.zero_grad()``.

        Returns:
            The update; None when none was due or the batch was only accumulated.

        Raises:
            UsageError: whatever ``Sparsifier.step`` refuses.
            TrainingError: other masks on other ranks.
        """
        return advance(self.sparsifier) if self._accelerator.sync_gradients else None

    def state_dict(self) -> dict[str, Any]:
        """For ``accelerator.save_state``."""
        return pack(self.sparsifier)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For ``accelerator.load_state``, which loads model and optimizer first."""
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
    """A sparsifier for a model and an optimizer that were prepared, registered for checkpointing.

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        sparsifier = granet.adapters.accelerate.prepare(accelerator, model, optimizer, method, total_steps=n)

    Args:
        accelerator: prepared the two.
        model: as ``accelerator.prepare`` returned it.
        optimizer: as ``accelerator.prepare`` returned it.
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
    if accelerator.distributed_type.name in _SHARDED:
        raise sharded("parameters that may be spread over processes", accelerator.distributed_type.name)
    binding = Binding(method=method, total_steps=total_steps, seed=seed, dense=dense, compiled=compiled)
    sparsifier = binding.bind(model, plain(optimizer), steps=total_steps)
    prepared = PreparedSparsifier(accelerator, sparsifier, maskable(binding.network(model), dense))
    accelerator.register_for_checkpointing(prepared)
    return prepared
