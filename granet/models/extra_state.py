"""State of a network outside parameters and persistent buffers: taken, loaded, and tried before training.

torch's protocol for it is a pair of methods, ``get_extra_state`` and ``set_extra_state``, whose value ``state_dict``
has under ``PREFIX_extra_state``. Buffers count where training made them other than the network is built with:
outside the state dict of another value, inside of another shape. Plain attributes are not stored:
``granet.training.hidden_state`` refuses networks whose outputs depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from granet.checkpoint import extra_state
from granet.errors import CheckpointError, ModelError, listing


def collect(model: nn.Module, fresh: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Return copies of the extra state by its key in the state dict, and buffers that changed by their names.

    Args:
        model: the network.
        fresh: ``buffers_as_built`` of it; without, all buffers outside the state dict are returned.

    Raises:
        ModelError: a module fails to return its state, or returns what cannot be stored.
    """
    values = {key: _get(module, key) for key, module in stateful(model).items()}
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        before = None if fresh is None else fresh.get(name)
        if name in persistent:
            changed = fresh is not None and (before is None or before.shape != buffer.shape)
        else:
            changed = before is None or not extra_state.identical(buffer, before)
        if changed:
            values[name] = buffer.detach().clone()
    return values


def buffers_as_built(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers outside the state dict, and the others without data, by name."""
    persistent = model.state_dict().keys()
    return {
        name: buffer.detach().to("meta") if name in persistent else buffer.detach().clone()
        for name, buffer in model.named_buffers()
    }


def stateful(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that have extra state, by its key in the state dict."""
    return {
        f"{name}.{extra_state.SUFFIX}" if name else extra_state.SUFFIX: module
        for name, module in model.named_modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }


@torch.no_grad()
def load(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Load what ``collect`` returned into a network of the same kind, on any device.

    Raises:
        ModelError: a module has no state there, there is state of no module, or a module does not take it.
    """
    modules = stateful(model)
    stored = {key: value for key, value in values.items() if key.endswith(extra_state.SUFFIX)}
    for key in sorted(modules.keys() ^ stored.keys()):
        raise ModelError(
            "the checkpoint has extra state of a module that the network lacks"
            if key in stored
            else "the checkpoint lacks the extra state of a module, without which the network computes something else",
            where=key,
            remedy="use the network that it was trained with",
        )
    for key, module in modules.items():
        _set(module, key, stored[key])
    for name in values.keys() - stored.keys():
        path, _, leaf = name.rpartition(".")
        try:
            buffers = model.get_submodule(path)._buffers
        except AttributeError:
            buffers = {}
        if leaf not in buffers or not isinstance(values[name], Tensor):
            raise ModelError(
                "the network has no such buffer", where=name, remedy="use the one that it was trained with"
            )
        like = buffers[leaf]
        buffers[leaf] = values[name].clone().to(next(model.parameters()).device if like is None else like.device)


def chosen(model: nn.Module, values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the extra state of the modules of ``model`` from ``values``, or their own where that has none of them.

    Returns:
        The state by its key in the state dict, and remarks on what is not from ``values``.
    """
    own = {key: _get(module, key) for key, module in stateful(model).items()}
    missing = [key for key in own if key not in values]
    remarks = (f"left the extra state of modules as it was, not being in the file: {listing(missing, 2, width=60)}",)
    return {key: values.get(key, value) for key, value in own.items()}, remarks if missing else ()


def check(model: nn.Module) -> None:
    """Check that the extra state can be stored and that modules take it back.

    Raises:
        ModelError: it cannot, or they do not.
    """
    for key, module in stateful(model).items():
        before = _get(module, key)
        _set(module, key, extra_state.copied(before, key))
        if not extra_state.identical(before, _get(module, key)):
            raise ModelError(
                "the extra state of a module does not come back, so that a resumed run would be another one",
                where=key,
                remedy="let set_extra_state restore all that get_extra_state returns, or use registered buffers",
            )


def settle(modules: Mapping[str, nn.Module]) -> None:
    """Give modules, by the key of their extra state, the state back that they return.

    Where that rounds, as a number that becomes a tensor does, a run would otherwise depend on where it was stopped.
    """
    for key, module in modules.items():
        _set(module, key, _get(module, key))


def _get(module: nn.Module, key: str) -> Any:
    try:
        value = module.get_extra_state()
    except Exception as error:  # of code that is not ours
        raise ModelError(
            "get_extra_state of a module fails", where=key, got=f"{type(error).__name__}: {error}"
        ) from error
    try:
        return extra_state.copied(value, key)
    except CheckpointError as error:
        raise ModelError(
            "the extra state of a module cannot be stored",
            where=error.where,
            got=error.got if error.got is not None else error.what,
            expected=error.expected,
            remedy="return such values from get_extra_state, or use registered buffers; nothing is ever pickled",
        ) from error


def _set(module: nn.Module, key: str, value: Any) -> None:
    """Give a module a copy of its state, with tensors on the devices of those that it has now."""
    node, tensors = extra_state.encode(value, key)
    present = extra_state.encode(_get(module, key), key)[1]
    like = present if len(present) == len(tensors) else tensors
    moved = [tensor.clone().to(other.device) for tensor, other in zip(tensors, like, strict=True)]
    try:
        module.set_extra_state(extra_state.decode(node, moved))
    except Exception as error:  # of code that is not ours
        raise ModelError(
            "set_extra_state of a module does not take what get_extra_state returned",
            where=key,
            got=f"{type(error).__name__}: {error}",
            remedy="let it take such values, or use registered buffers",
        ) from error
