"""What the adapters share: from a host's model and optimizer to a sparsifier, new or as in a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from granet.adapters.ranks import check_equal
from granet.adapters.state import unpack_into
from granet.errors import UnknownNameError, UsageError
from granet.layers.maskable import maskable, unwrap
from granet.masks import mapping as masking
from granet.methods.base import Method
from granet.methods.update import check_method
from granet.sparsifier import Sparsifier
from granet.sparsifier.optimizer_state import hooked, shaped_state
from granet.topology import TopologyUpdate

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA")
"""Names that Accelerate gives to ways of distributing that spread parameters over processes."""


class Binding:
    """A sparsifier that is made once its host has made model and optimizer.

    Args:
        method: one of ``granet.methods``.
        total_steps: optimizer steps of the whole run; the host's number when left out.
        seed: key of all random choices.
        dense: patterns of layers that are not masked, see ``granet.layers.maskable.maskable``.
        module: where the network is inside the model that the host trains, such as ``"net"``. Names of layers start
            there, and random masks are keyed by them. All of the model when left out.
        compiled: see ``granet.Sparsifier``.

    Raises:
        UsageError: not a method.
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
        if not isinstance(method, Method):
            raise UsageError("not a method", got=repr(method), expected="one of granet.methods, with its settings")
        self._method, self._total_steps, self._module, self._dense = method, total_steps, module, dense
        self._settings: dict[str, Any] = {"seed": seed, "dense": dense, "compiled": compiled}
        self._sparsifier: Sparsifier | None = None
        self._parameters: Mapping[str, nn.Parameter] = {}

    @property
    def sparsifier(self) -> Sparsifier:
        """The sparsifier of the present run or, once training has ended, of the last one.

        Raises:
            UsageError: training has not begun.
        """
        if self._sparsifier is None:
            raise UsageError("there is no sparsifier before training begins", where=type(self).__name__)
        return self._sparsifier

    def _find_parameters(self, model: nn.Module) -> nn.Module:
        """Return the network inside ``model``, and keep its maskable parameters.

        Raises:
            UnknownNameError: the model has no such module.
            UsageError: its parameters are spread over processes, or ``dense`` matches no layer.
        """
        whole = unwrap(model)
        _refuse_sharded(whole)
        try:
            network = unwrap(whole.get_submodule(self._module))
        except AttributeError as error:
            names = [name for name, _ in whole.named_modules() if name]
            raise UnknownNameError("module", self._module, names, where=type(whole).__name__) from error
        self._parameters = maskable(network, self._dense)
        return network

    @torch.no_grad()
    def _bind(
        self,
        model: nn.Module,
        optimizer: object,
        *,
        steps: int,
        state: Mapping[str, Any] | None = None,
        where: str = "the checkpoint",
    ) -> None:
        """Make the sparsifier: at step 0, or as in ``state``, for weights that are loaded already.

        Args:
            model, optimizer: the host's, wrapped or not.
            steps: of the whole run, if the user did not say.
            state: what ``pack`` returned.
            where: where the state comes from, for errors.

        Raises:
            UsageError: whatever ``Sparsifier`` and ``unpack_into`` refuse.
            CheckpointError: a damaged state.
            TrainingError: the ranks have different masks.
        """
        network, optimizer = self._find_parameters(model), hooked(optimizer)
        total_steps = self._total_steps if self._total_steps is not None else steps
        loaded = [
            (tensor, tensor.detach().clone())
            for parameter in self._parameters.values()
            for tensor in (parameter, *shaped_state(optimizer, parameter))
            if state is not None
        ]
        sparsifier = Sparsifier(network, optimizer, self._method, total_steps=total_steps, **self._settings)
        if state is not None:
            try:
                for tensor, value in loaded:  # a new sparsifier masks what a run starts with
                    tensor.copy_(value)
                unpack_into(sparsifier, state, self._parameters, where=where)
            except BaseException:
                sparsifier.close()
                raise
        check_equal(sparsifier.masks, where=f"step {sparsifier.steps}")
        self._sparsifier = sparsifier

    def _warn_if_not_masked(self, when: str) -> None:
        """Warn of weights outside the masks that are not zero, since somebody wrote them after the last step."""
        sparsifier = self.sparsifier
        masked = masking.density(sparsifier.masks)
        if (really := sparsifier.density) > masked:
            warnings.warn(
                f"{when}: somebody, such as a callback that averages weights, wrote weights outside the masks: "
                f"{really:.4f} of the weights are not zero or active, and {masked:.4f} by the masks. "
                "sparsifier.apply_masks() sets them to zero",
                RuntimeWarning,
                stacklevel=2,
            )

    def _advance(self, *, skipped: bool = False) -> TopologyUpdate | None:
        """Call ``Sparsifier.step``; compare new masks over the ranks, and warn of what the update notes."""
        update = self.sparsifier.step(skipped=skipped)
        if update is not None:
            check_equal(self.sparsifier.masks, where=f"step {update.step}")
            if update.note:
                warnings.warn(f"step {update.step}: {update.note}", RuntimeWarning, stacklevel=2)
        return update


def steps_of_a_trial(method: Method, parameters: Mapping[str, nn.Parameter], steps: int) -> int:
    """Return ``steps`` doubled until the method has a schedule for so many, for a run of a few steps as a trial.

    Raises:
        UsageError: the method does not fit the layers, or any number of steps.
    """
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    for doublings in range(40):
        try:
            check_method(method, shapes, steps << doublings)
        except UsageError:
            continue
        return steps << doublings
    check_method(method, shapes, steps)
    return steps


def refuse_sharded_type(distributed_type: str) -> None:
    """Raise UsageError for a ``DistributedType`` of Accelerate that may spread parameters over processes."""
    if distributed_type in _SHARDED:
        raise sharded("parameters that may be spread over processes", distributed_type)


def _refuse_sharded(model: nn.Module) -> None:
    """Raise UsageError for a model of which each process holds only a part: its gradients cannot be ranked there."""
    what = "the parameters are spread over processes"
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise sharded(what, f"{name or type(model).__name__}: FullyShardedDataParallel")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements") or hasattr(parameter, "ds_id"):  # a DTensor, and DeepSpeed's ZeRO-3
            raise sharded(what, f"{name}: {type(parameter).__name__}")


def sharded(what: str, got: str) -> UsageError:
    """Return the error for ways of distributing that leave no whole gradient on each process."""
    return UsageError(what, got=got, expected="one process, DataParallel or DistributedDataParallel")
