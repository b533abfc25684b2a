"""What adapters have in common: from a host's model and optimizer to a sparsifier, new or as a checkpoint left it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from granet.adapters.ranks import check_equal
from granet.adapters.state import unpack_into
from granet.errors import UnknownNameError, UsageError
from granet.layers.maskable import maskable, unwrap
from granet.methods.base import Method
from granet.sparsifier import Sparsifier
from granet.sparsifier.optimizer_state import shaped_state
from granet.topology import TopologyUpdate


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a user says about a sparsifier before the host has made its optimizer; see ``granet.Sparsifier``."""

    method: Method
    total_steps: int | None = None
    """Optimizer steps of the whole run; None takes the host's."""
    seed: int = 0
    dense: Sequence[str] = ()
    module: str = ""
    """Where the network is inside the model that the host trains, such as ``net``; names of layers start there."""
    compiled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise UsageError("not a method", got=repr(self.method), expected="one of granet.methods, with its settings")

    def network(self, model: nn.Module) -> nn.Module:
        """The network to be masked.

        Raises:
            UnknownNameError: the model has no such module.
            UsageError: its parameters are spread over processes.
        """
        whole = unwrap(model)
        refuse_sharded(whole)
        try:
            return unwrap(whole.get_submodule(self.module))
        except AttributeError as error:
            names = [name for name, _ in whole.named_modules() if name]
            raise UnknownNameError("module", self.module, names, where=type(whole).__name__) from error

    @torch.no_grad()
    def bind(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        steps: int,
        state: Mapping[str, Any] | None = None,
        where: str = "the checkpoint",
    ) -> Sparsifier:
        """A sparsifier for ``model``: at step 0, or as in ``state``, with the weights that are loaded already.

        Args:
            model: the host's, wrapped or not.
            optimizer: plain, see ``plain``.
            steps: of the whole run, if the user did not say.
            state: what ``pack`` returned.
            where: the state came from, for errors.

        Raises:
            UsageError: whatever ``Sparsifier`` and ``unpack_into`` refuse.
            CheckpointError: a damaged state.
            TrainingError: other masks on other ranks.
        """
        network, total = self.network(model), self.total_steps if self.total_steps is not None else steps
        parameters = maskable(network, self.dense)
        loaded = [
            (tensor, tensor.detach().clone())
            for parameter in parameters.values()
            for tensor in (parameter, *shaped_state(optimizer, parameter))
            if state is not None
        ]
        sparsifier = Sparsifier(
            network,
            optimizer,
            self.method,
            total_steps=total,
            seed=self.seed,
            dense=self.dense,
            compiled=self.compiled,
        )
        if state is not None:
            try:
                for tensor, value in loaded:  # a new sparsifier masks what a run starts with
                    tensor.copy_(value)
                unpack_into(sparsifier, state, parameters, where=where)
            except BaseException:
                sparsifier.close()
                raise
        check_equal(sparsifier.masks, where=f"step {sparsifier.steps}")
        return sparsifier


class Bound:
    """What a host calls while it trains, with the sparsifier that it got when training began."""

    _sparsifier: Sparsifier | None = None

    @property
    def sparsifier(self) -> Sparsifier:
        """The sparsifier of the present run or, once training has ended, of the last one.

        Raises:
            UsageError: training has not begun.
        """
        if self._sparsifier is None:
            raise UsageError("there is no sparsifier before training begins", where=type(self).__name__)
        return self._sparsifier


def advance(sparsifier: Sparsifier) -> TopologyUpdate | None:
    """``sparsifier.step()``; masks that changed are compared over the ranks, and what went amiss is warned of."""
    update = sparsifier.step()
    if update is not None:
        check_equal(sparsifier.masks, where=f"step {update.step}")
        if update.note:
            warnings.warn(f"step {update.step}: {update.note}", RuntimeWarning, stacklevel=2)
    return update


def plain(optimizer: object) -> Optimizer:
    """The torch optimizer inside the wrappers that hosts put around it.

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


def refuse_sharded(model: nn.Module) -> None:
    """Raises UsageError for a model of which each process holds a part only: its gradients cannot be ranked there."""
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise _sharded(f"{name or type(model).__name__}: FullyShardedDataParallel")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements") or hasattr(parameter, "ds_id"):  # a DTensor, and DeepSpeed's ZeRO-3
            raise _sharded(f"{name}: {type(parameter).__name__}")


def _sharded(got: str) -> UsageError:
    return sharded("the parameters are spread over processes", got)


def sharded(what: str, got: str) -> UsageError:
    """The error for ways of distributing that leave no whole gradient on each process."""
    return UsageError(what, got=got, expected="one process, DataParallel or DistributedDataParallel")
