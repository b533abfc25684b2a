"""Find the prefix under which the names of a network lie in a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, ModelError, listing
from granet.importing.conventions import AVERAGED
from granet.importing.names import COUNTER

MAX_COMPONENTS = 8
"""The most components of a name that a prefix may have."""

MAX_HEADS = 4
"""How many first components that all names share are removed at most where the network is not found."""


def find(names: Iterable[str], canonical: Mapping[str, str], where: str) -> tuple[str, tuple[str, ...]]:
    """Return the prefix, with its last dot, under which all tensors of a network lie, and remarks.

    ``canonical`` maps the names of the network to the first name of the same tensor. The names of the file may
    include others. Of several prefixes the empty one is taken, then the only one of plain weights beside averaged
    ones. Where no prefix has all, it is the one with most of them, if that is more than half; else the components
    that all names have in common.

    Raises:
        ModelError: several could be meant, and none comes first.
    """
    names = list(names)
    needed = {first for first in canonical.values() if not first.endswith(COUNTER)}
    found = _found(names, canonical, needed)
    whole = [prefix for prefix, tensors in found.items() if tensors == len(needed)]
    plain = [prefix for prefix in whole if not _averaged(prefix)] or whole
    if "" in plain:
        plain = [""]
    if len(plain) > 1:
        raise ModelError(
            "the file has all tensors of the network several times",
            where=where,
            got=f"under {listing((prefix[:-1] for prefix in plain), 6, width=60)}",
            remedy=f"say which to take, as granet import --prefix {plain[0][:-1]}",
        )
    if plain:
        chosen = plain[0]
    else:
        best = sorted(found, key=lambda prefix: found[prefix], reverse=True)[:2]
        clear = best and 2 * found[best[0]] > len(needed) and found[best[0]] > found[best[-1]] * (len(best) - 1)
        chosen = best[0] if clear else shared(names, canonical)
    remarks = [f"took {chosen[:-1]!r} out of the names"] if chosen else []
    for other in whole:
        if other != chosen:
            kind = " (averaged weights)" if _averaged(other) else ""
            remarks.append(f"all of it is under {other[:-1]!r} too{kind}; --prefix {other[:-1]} takes that instead")
    return chosen, tuple(remarks)


def without(tensors: Mapping[str, Tensor], prefix: str, where: str) -> dict[str, Tensor]:
    """Return the tensors with ``prefix`` taken out of the names that have it.

    Raises:
        CheckpointError: one of them then has the name of another tensor.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(prefix)
        if plain in result:
            raise CheckpointError(
                f"a tensor is there with and without {prefix[:-1]!r} in front",
                where=f"{where}, tensor {short(plain)}",
                remedy=f"take those that have it, with granet import --prefix {prefix[:-1]}",
            )
        result[plain] = tensor
    return result


def covering(missing: Sequence[str], strangers: Iterable[str]) -> tuple[str, ...]:
    """Return prefixes that together turn ``strangers`` into all that is ``missing``; none if no such are found."""
    wanted = set(missing)
    found = _found(strangers, {name: name for name in missing}, wanted)
    chosen: list[str] = []
    for prefix in sorted(found, key=lambda prefix: found[prefix], reverse=True)[:MAX_COMPONENTS]:
        covered = {name for name in wanted if prefix and prefix + name in set(strangers)}
        if covered:
            chosen.append(prefix)
            wanted -= covered
    return () if wanted else tuple(chosen)


def shared(names: Sequence[str], known: Iterable[str]) -> str:
    """Return the first components, at most ``MAX_HEADS``, that all names share and the network does not have."""
    heads = {name.partition(".")[0] for name in known}
    prefix = ""
    for _ in range(MAX_HEADS):
        parts = [name[len(prefix) :].partition(".") for name in names]
        shared = {head if rest else "" for head, _, rest in parts}
        if len(shared) != 1 or shared & {"", *heads}:
            break
        prefix += f"{shared.pop()}."
    return prefix


def _found(names: Iterable[str], canonical: Mapping[str, str], needed: set[str]) -> dict[str, int]:
    """Return how many of the ``needed`` tensors lie under each prefix."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        start = 0
        for _ in range(MAX_COMPONENTS + 1):
            first = canonical.get(name[start:])
            if first in needed and first is not None:
                found[name[:start]].add(first)
            start = name.find(".", start) + 1
            if start == 0:
                break
    return {prefix: len(tensors) for prefix, tensors in found.items()}


def _averaged(prefix: str) -> bool:
    return any(fnmatchcase(part, pattern) for part in prefix.split(".") for pattern in AVERAGED)
