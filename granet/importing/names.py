"""Map the names in a file to those of the network, without what wrappers and pruning add to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, ModelError, nearest

WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile add to names, in front or where they wrap a part of the network."""

MAX_HEADS = 4
"""How many first components that all names share are removed at most."""

ORIGINAL, MASK = "_orig", "_mask"
"""What torch.nn.utils.prune appends to the name of a pruned parameter, and to that of its mask."""

COUNTER = "num_batches_tracked"
"""A buffer of batch norms that files from before torch 0.4.1 lack; only a momentum of None ever reads it."""


def unwrapped(
    tensors: Mapping[str, Tensor], known: Iterable[str], where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors by names without wrappers, and remarks on what was removed; ``where`` is their file.

    Components in ``WRAPPERS`` are removed anywhere, and then a first component that all names share; neither where
    the network, whose names are ``known``, has such a name itself.

    Raises:
        CheckpointError: two names become one.
    """
    parts = [name.split(".") for name in known]
    own = {component for name in parts for component in name}
    wrappers = [wrapper for wrapper in WRAPPERS if wrapper not in own]
    split = {name: [part for part in name.split(".") if part not in wrappers] for name in tensors}
    found = [wrapper for wrapper in wrappers if any(wrapper in name.split(".") for name in tensors)]
    heads = {name[0] for name in parts}
    for _ in range(MAX_HEADS):
        shared = {rest[0] if len(rest) > 1 else "" for rest in split.values()}
        if len(shared) != 1 or shared & {"", *heads}:
            break
        found += shared
        split = {name: rest[1:] for name, rest in split.items()}
    result: dict[str, Tensor] = {}
    for name, rest in split.items():
        if not rest or (plain := ".".join(rest)) in result:
            raise CheckpointError(
                "without the names of wrappers, two tensors have the same name or one has none",
                where=f"{where}, tensor {short(name)}",
                got=f"wrappers {', '.join(found)}",
            )
        result[plain] = tensors[name]
    return result, tuple(f"took {short(name)} out of the names" for name in found)


def unpruned(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors with each pair ``NAME_orig`` and ``NAME_mask`` as one parameter NAME, and masks by NAME.

    Raises:
        CheckpointError: there is a tensor NAME next to the pair.
    """
    pruned = [name.removesuffix(ORIGINAL) for name in tensors if name.endswith(ORIGINAL)]
    masks = {name: tensors[name + MASK] for name in pruned if name + MASK in tensors}
    for name in masks:
        if name in tensors:
            raise CheckpointError(
                "a parameter is in the file twice: as it is, and as pruning keeps it",
                where=f"{where}, tensor {short(name)}",
                remedy="remove one of the two, or make pruning permanent with torch.nn.utils.prune.remove",
            )
    plain = {name + ORIGINAL: name for name in masks}
    dropped = {name + MASK for name in masks}
    return {plain.get(name, name): tensor for name, tensor in tensors.items() if name not in dropped}, masks


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


def of_masks(masks: Mapping[str, Tensor], weights: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """Return masks by the network's names of the weights they belong to.

    A mask may be called as its weight is, as its layer, or as pruning calls it: ``conv1.weight``, ``conv1``,
    ``conv1.weight_mask``, ``conv1.mask``. Where any are called as masks, only these are masks. ``weights`` maps the
    names that a weight goes by to its name in the network.

    Raises:
        CheckpointError: a mask of no weight, or two of one.
    """
    called = {name: tensor for name, tensor in masks.items() if name.endswith((MASK, ".mask"))}
    result: dict[str, Tensor] = {}
    for name, tensor in (called or masks).items():
        base = name.removesuffix(MASK).removesuffix(".mask")
        target = weights.get(base) or weights.get(f"{base}.weight")
        if target is None:
            close = nearest(base[:200], weights)
            raise CheckpointError(
                "a mask for a weight that the network does not have",
                where=f"{where}, tensor {short(name)}",
                remedy=f"is it meant for {close}?" if close else None,
            )
        if target in result:
            raise CheckpointError("two masks for one weight", where=f"{where}, tensor {short(name)}", got=target)
        result[target] = tensor
    return result
