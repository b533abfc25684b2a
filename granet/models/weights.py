"""Load stored tensors into a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from granet.errors import ModelError
from granet.models import extra_state
from granet.models.building import build, check_confirmed, is_factory, outline

if TYPE_CHECKING:
    from granet.checkpoint import Checkpoint


@torch.no_grad()
def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Copy ``weights``, ``buffers`` and, where given, the ``extra`` state of modules into ``model``, on any device.

    Raises:
        ModelError: a tensor is unknown to the model, missing, or of another shape; nothing is copied then. Or a module
            does not take its extra state.
    """
    _check_fit(model, weights, buffers, extra or {})
    persistent = model.state_dict().keys()
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
    for name, buffer in model.named_buffers():
        if name in persistent and name in buffers:
            buffer.copy_(buffers[name])
    if extra is not None:
        extra_state.load(model, extra)


def from_checkpoint(checkpoint: Checkpoint, *, factory: str | None = None, trial: bool = True) -> nn.Module:
    """Build the network of a checkpoint of any origin with its weights, on the CPU, in training mode.

    When the network is ``package.module:factory``, ``factory`` is that name again: building it runs code, and a file
    does not decide which. For ``trial`` see :func:`granet.models.build`.

    Raises:
        ModelError: the network cannot be built or does not fit the weights, or its factory was not confirmed.
    """
    network = checkpoint.network
    check_confirmed(network.name, factory)
    if not is_factory(network.name):  # a file must not make us allocate more than its weights
        _check_fit(
            outline(network.name, **network.sizes), checkpoint.weights, checkpoint.buffers, checkpoint.extra_state
        )
    model = build(network.name, **network.sizes, trial=trial)
    load_weights(model, checkpoint.weights, checkpoint.buffers, checkpoint.extra_state)
    return model


def _check_fit(
    model: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], extra: Mapping[str, Any]
) -> None:
    persistent = model.state_dict().keys() - extra.keys()
    for kind, mine, theirs in (
        ("weight", dict(model.named_parameters()), weights),
        ("buffer", {name: b for name, b in model.named_buffers() if name in persistent}, buffers),
    ):
        if different := sorted(mine.keys() ^ theirs.keys()):
            name = different[0]
            has = "the network lacks it" if name in theirs else "the checkpoint lacks it"
            raise ModelError(
                "the checkpoint belongs to another network",
                where=f"{kind} {name}",
                got=f"{has}, and {len(different) - 1} more differ" if different[1:] else has,
                remedy="use the network that it was trained with",
            )
        for name, tensor in mine.items():
            if tensor.shape != theirs[name].shape:
                raise ModelError(
                    "the checkpoint belongs to another network",
                    where=f"{kind} {name}",
                    got=tuple(theirs[name].shape),
                    expected=tuple(tensor.shape),
                )
