"""The names of a network's tensors, and those of a file without what wrappers add to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from torch import Tensor, nn

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, ModelError
from granet.importing.conventions import WRAPPERS

COUNTER = "num_batches_tracked"
"""A buffer of batch norms that files from before torch 0.4.1 lack; only a momentum of None ever reads it."""


def canonical(network: nn.Module) -> dict[str, str]:
    """Map every name in the network's state to the first name of the same tensor."""
    firsts: dict[int, str] = {}
    state = network.state_dict().keys()
    everything = chain(network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in everything if name in state}


def unwrapped(
    tensors: Mapping[str, Tensor], known: Iterable[str], where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors by names without the components in ``WRAPPERS``, and remarks on what was removed.

    A component stays where the network, whose names are ``known``, has one of that name itself. ``where`` is the
    file.

    Raises:
        CheckpointError: two names become one, or nothing is left of one.
    """
    own = {component for name in known for component in name.split(".")}
    wrappers = [wrapper for wrapper in WRAPPERS if wrapper not in own]
    found = [wrapper for wrapper in wrappers if any(wrapper in name.split(".") for name in tensors)]
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = ".".join(part for part in name.split(".") if part not in wrappers)
        if not plain or plain in result:
            raise CheckpointError(
                "without the names of wrappers, two tensors have the same name or one has none",
                where=f"{where}, tensor {short(name)}",
                got=f"wrappers {', '.join(found)}",
                remedy=f"say which are meant: granet import --prefix {found[0]}, or leave others out with --ignore"
                if found
                else None,
            )
        result[plain] = tensor
    return result, tuple(f"took {short(name)} out of the names" for name in found)


def in_order(tensors: Mapping[str, Tensor], network: nn.Module, where: str) -> dict[str, str]:
    """Map the names of the tensors to those of the network in order, the first to the first and so on.

    For networks that are built alike and named differently. Tensor by tensor the last component of the name (weight,
    bias, running_mean, ...) and the number of dimensions have to agree; sizes are for
    :mod:`granet.importing.match_tensors` to compare.

    Raises:
        ModelError: they do not agree; the first difference is named.
    """
    state = network.state_dict()
    counted = any(name.endswith(COUNTER) for name in tensors)
    mine = [name for name in state if counted or not name.endswith(COUNTER)]
    for position, (name, other) in enumerate(zip(mine, tensors, strict=False), start=1):
        if _kind(name, state[name]) != _kind(other, tensors[other]):
            raise ModelError(
                f"tensor {position} of the file is of another kind than tensor {position} of the network",
                where=where,
                got=f"{other} {list(tensors[other].shape)}",
                expected=f"{name} {list(state[name].shape)}",
                remedy="choose the network that the file was saved from",
            )
    if len(mine) != len(tensors):
        raise ModelError(
            "the file has another number of tensors than the network",
            where=where,
            got=len(tensors),
            expected=len(mine),
            remedy="choose the network that the file was saved from",
        )
    return dict(zip(tensors, mine, strict=True))


def _kind(name: str, tensor: Tensor) -> tuple[str, int]:
    return name.rpartition(".")[2], tensor.dim()
