"""Tensors of a file that its network does not have: which are left out, and how the others are described."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from granet.errors import UsageError, listing
from granet.importing.conventions import BY_PRODUCTS

MAX_GROUPS = 8
"""The most groups of names that a message lists."""


def under(tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors under the prefixes, by names without them; none if there are none under one of them.

    A prefix goes with or without its last dot.

    Raises:
        UsageError: two of them have a tensor of the same name.
    """
    dotted = [f"{prefix.removesuffix('.')}." for prefix in prefixes]
    if not all(any(name.startswith(prefix) for name in tensors) for prefix in dotted):
        return {}
    taken: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = next((name.removeprefix(prefix) for prefix in dotted if name.startswith(prefix)), None)
        if plain is not None and taken.setdefault(plain, tensor) is not tensor:
            raise UsageError("a tensor of the same name is under two prefixes", where="--prefix", got=plain)
    return taken


def without_ignored(
    tensors: Mapping[str, Tensor], patterns: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors that no pattern matches, and the names that each pattern matches, if any.

    Patterns are those of ``fnmatch``, names, or beginnings of names that end at a dot.
    """
    matched: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        for pattern in patterns:
            if fnmatchcase(name, pattern) or name.startswith(f"{pattern.removesuffix('.')}."):
                matched[pattern].append(name)
    dropped = {name for names in matched.values() for name in names}
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}, dict(matched)


def by_products(
    tensors: Mapping[str, Tensor], known: Collection[str], computed: Collection[str]
) -> tuple[set[str], list[str]]:
    """Return the names of tensors that the network, whose names are ``known``, does without, and remarks on them.

    They are those of ``BY_PRODUCTS``, and buffers that the network computes itself and does not store (``computed``).
    """
    found: dict[str, list[str]] = defaultdict(list)
    notes = {row.what: row.note for row in BY_PRODUCTS}
    own = "buffers that the network computes itself"
    for name in tensors:
        if name in known:
            continue
        row = next((row for row in BY_PRODUCTS if row.covers(name, tensors[name].numel())), None)
        if name in computed:
            found[own].append(name)
        elif row is not None:
            found[row.what].append(name)
    remarks = [f"left out {what}: {groups(names)}" for what, names in found.items()]
    remarks += [notes[what] for what in found if notes.get(what)]
    return {name for names in found.values() for name in names}, remarks


def groups(names: Iterable[str]) -> str:
    """Describe names by their first components, with how many there are of each: "aux1.* (10), queue"."""
    return listing(_grouped(names), MAX_GROUPS, width=60)


def options(names: Iterable[str]) -> str:
    """Return options that leave these names out, or a few of them and dots."""
    found = [f"--ignore '{group.partition(' (')[0]}'" for group in _grouped(names)]
    return " ".join(found[:MAX_GROUPS]) + (" ..." if len(found) > MAX_GROUPS else "")


def _grouped(names: Iterable[str]) -> list[str]:
    found: dict[str, int] = defaultdict(int)
    for name in names:
        head, dot, _ = name.partition(".")
        found[f"{head}.*" if dot else head] += 1
    return [group if count == 1 and not group.endswith("*") else f"{group} ({count})" for group, count in found.items()]
