"""Find the tensors inside what a program gave to ``torch.save``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError, UsageError, counted, listing
from granet.importing import torch_file
from granet.importing.conventions import CONTAINERS, Container

_WEIGHTS = [row for content in ("weights", "averaged weights") for row in CONTAINERS if row.content == content]
_MASKS = {row.key for row in CONTAINERS if row.content == "masks"}

MAX_DEPTH = 4
"""The most levels of known keys that are followed."""

MAX_LEVELS = 16
"""The most levels of dicts whose keys become names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundTensors:
    """The tensors of a file."""

    tensors: dict[str, Tensor]
    """By name, or by position in a list."""
    listed: int | None = None
    """The length of that list, whose other entries are None; None where tensors have names."""
    masks: FoundTensors | None = None
    """What lies next to them under a key for masks."""
    masks_key: str = ""
    """That key, or several joined by dots."""
    remarks: tuple[str, ...] = ()
    """Which keys were followed, and what was left out."""


def find(value: Any, where: str, *, key: str | None = None, for_masks: bool = False) -> FoundTensors:
    """Return the tensors inside ``value``, following the keys of ``CONTAINERS``; of a mask file, those of masks first.

    With ``key``, or several joined by dots, they are looked for there. Where no tensor lies at the last key, dicts
    further down are taken together, their keys joined by dots. Every choice is remarked on.

    Raises:
        CheckpointError: no tensors by name, or some that are not plain ones.
        UsageError: nothing lies under ``key``.
    """
    remarks = [] if key is None else [f"took {key!r}, as asked"]
    value = value if key is None else _under(value, key, where)
    path, masks = _mask_keys(value), None
    if path and for_masks:
        remarks.append(f"took {path!r}")
        value = _under(value, path, where)
    elif path:
        masks = find(_under(value, path, where), f"{where}, {path!r}", for_masks=True)
    if for_masks and isinstance(value, list | tuple):
        return replace(_listed(value, where), remarks=tuple(remarks))
    for depth in range(MAX_DEPTH + 1):
        _check_names(value, where)
        row = next((row for row in _WEIGHTS if isinstance(value.get(row.key), dict) and value[row.key]), None)
        if row is None or depth == MAX_DEPTH:
            break
        remarks += _choice(value, row, path)
        value = value[row.key]
    named = {name: part for name, part in value.items() if isinstance(part, Tensor)}
    if named and (others := [name for name in value if name not in named]):
        remarks.append(f"left out what is no tensor: {listing(others, 6, width=60)}")
    named = named or dict(_flat(value))
    if not named:
        raise CheckpointError(
            "no tensors in the file",
            where=where,
            got=_shown(value) or None,
            expected="a state dict: tensors by name",
            remedy="save one there with torch.save(model.state_dict(), FILE)",
        )
    tensors = {name: torch_file.plain(tensor, f"{where}, tensor {short(name)}") for name, tensor in named.items()}
    return FoundTensors(tensors=tensors, masks=masks, masks_key=path, remarks=tuple(remarks))


def _mask_keys(value: Any, path: str = "", seen: set[int] | None = None) -> str:
    """Return the keys, joined by dots, under which masks lie, at most ``MAX_DEPTH``; empty if there are none."""
    seen = set() if seen is None else seen
    if not isinstance(value, dict) or id(value) in seen or path.count(".") > MAX_DEPTH or "param_groups" in value:
        return ""
    seen.add(id(value))
    parts = {name: part for name, part in value.items() if isinstance(name, str) and not isinstance(part, Tensor)}
    key = next((name for name, part in parts.items() if name in _MASKS and _has_tensors(part)), None)
    if key is not None:
        return path + key
    return next((found for name, part in parts.items() if (found := _mask_keys(part, f"{path}{name}.", seen))), "")


def _has_tensors(part: Any) -> bool:
    if isinstance(part, list | tuple):
        return any(isinstance(entry, Tensor) for entry in part)
    return next(_flat(part), None) is not None


def _choice(value: Mapping[str, Any], row: Container, masks: str) -> list[str]:
    """Return remarks on taking this key of several, where masks were found under the keys ``masks``."""
    rest = [name for name in value if name not in (row.key, masks)]
    remarks = [f"took {row.key!r}" + (f", left out {listing(rest, 6, width=60)}" if rest else "")]
    if row.content == "averaged weights":
        remarks.append(f"the weights in {row.key!r} are averaged ones")
    if also := [name for name in rest if isinstance(value[name], dict) and _has_tensors(value[name])]:
        known = {other.key: f" ({other.content}: {other.used_by})" for other in CONTAINERS}
        words = [name + known.get(name, "") for name in also]
        remarks.append(f"other tensors are in {listing(words, 6, width=120)}; --key {also[0]} takes those instead")
    return remarks


def _under(value: Any, key: str, where: str) -> Any:
    """Return what lies under ``key``: one name, or several joined by dots.

    Raises:
        UsageError: nothing does.
    """
    rest = key
    while rest:
        if not isinstance(value, dict):
            value = {}
        name = next((n for n in value if isinstance(n, str) and (rest == n or rest.startswith(f"{n}."))), None)
        if name is None:
            raise UsageError(
                "there is nothing under this key in the file",
                where=f"{where}, --key {key}",
                got=_shown(value) or "nothing",
            )
        value, rest = value[name], rest[len(name) + 1 :]
    return value


def _listed(value: Sequence[Any], where: str) -> FoundTensors:
    """Return the tensors of a list by their position.

    Raises:
        CheckpointError: an entry is neither a tensor nor None.
    """
    tensors = {}
    for position, entry in enumerate(value):
        if entry is None:
            continue
        if not isinstance(entry, Tensor):
            raise CheckpointError(
                "not a list of masks",
                where=where,
                got=f"entry {position} of type {type(entry).__name__}",
                expected="tensors or None",
            )
        tensors[str(position)] = torch_file.plain(entry, f"{where}, entry {position}")
    return FoundTensors(tensors=tensors, listed=len(value))


def _check_names(value: Any, where: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(
            "not a state dict",
            where=where,
            got="a dict with other keys than texts" if isinstance(value, dict) else type(value).__name__,
            expected="tensors by name",
            remedy="save one there with torch.save(model.state_dict(), FILE)",
        )


def _flat(value: Any, name: str = "", level: int = 0, seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of dicts in dicts by their keys, joined by dots, without those of optimizers and lists.

    A dict that is there several times counts once: in a hostile file it is there without end.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict) and id(value) not in seen and level < MAX_LEVELS and "param_groups" not in value:
        seen.add(id(value))
        for key, part in value.items():
            if isinstance(key, str):
                yield from _flat(part, f"{name}.{key}" if name else key, level + 1, seen)


def _shown(value: Mapping[Any, Any]) -> str:
    """Return in words what is in a dict."""
    return listing([_described(str(name), part) for name, part in value.items()], 8, width=80)


def _described(name: str, part: Any) -> str:
    if isinstance(part, dict):
        if "param_groups" in part:
            return f"{name} (the state of an optimizer)"
        if name == "param_groups" or (tensors := sum(1 for _ in _flat(part))) == 0:
            return name
        return f"{name} ({counted(tensors, 'tensor')})"
    if isinstance(part, list | tuple) and _has_tensors(part):
        return f"{name} (a list of tensors without names)"
    return name
