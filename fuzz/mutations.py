"""Mutations of a file. Damage leaves the hashes as they were; forgery makes them valid again.

Each is a function of a random generator and of two files, the one to break and one to take parts from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from fuzz.forgery import Parts, Tensor, joined, put_together, split, take_apart

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "dense", "bitmask", "gaps8", "gaps4", "masked", "whole", "\ud800", "\0", "a/b"),
    *(0, 1, -1, 7, 8, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400),
    *(0.5, -0.0, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [0], [1, 0], [2, 0], [-1], [2**32, 2**32], [0, 2**62], {"": 0}, {"__metadata__": {}}),
)
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I8", "U64", "U8", "BOOL", "F4", "C64", "")


def damage(rng: random.Random, data: bytes, donor: bytes) -> tuple[str, bytes]:
    """Damage ``data`` one to three times; return the name of the first mutation and the result."""
    names = rng.choices(list(DAMAGES), k=rng.choice((1, 1, 1, 2, 3)))
    for name in names:
        data = DAMAGES[name](rng, data, donor)
    return names[0], data


def forge(rng: random.Random, data: bytes, donor: bytes) -> tuple[str, bytes]:
    """Change a sound file one to three times; return the name of the first mutation and a file with valid hashes."""
    parts, other = take_apart(data), take_apart(donor)
    names = rng.choices(list(FORGERIES), k=rng.choice((1, 1, 1, 2, 3)))
    for name in names:
        FORGERIES[name](rng, parts, other)
    return names[0], put_together(parts)


def flip_bits(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Flip one bit or a few."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Overwrite a range with other bytes."""
    begin, end = _stretch(rng, data)
    return data[:begin] + rng.choice((rng.randbytes(end - begin), bytes(end - begin))) + data[end:]


def truncate(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Cut off the end."""
    return data[: rng.randrange(len(data) + 1)]


def remove(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Remove a range."""
    begin, end = _stretch(rng, data)
    return data[:begin] + data[end:]


def repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Insert a copy of a range somewhere else."""
    begin, end = _stretch(rng, data)
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[begin:end] + data[at:]


def splice(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Replace the end, or a range, by that of another file."""
    begin, end = _stretch(rng, data)
    return data[:begin] + donor[begin : rng.choice((end, len(donor)))] + data[rng.choice((end, len(data))) :]


def edit_header(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Change a value in the safetensors header, and correct the header's length."""
    try:
        header, body = split(data)
        return joined(_changed(rng, header), body)
    except (ValueError, TypeError, RecursionError):
        return data  # too broken to be edited


def edit_length(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Change the length of the header."""
    length = int.from_bytes(data[:8], "little") + rng.choice((-8, -1, 1, 8, 2**31, 2**63, -len(data), len(data)))
    return (length % 2**64).to_bytes(8, "little") + data[8:]


def edit_fields(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Change a field of the header."""
    changed = _changed(rng, parts.fields)
    parts.fields = changed if isinstance(changed, dict) else {"format": changed}


def edit_counts(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Change the shape, count or encoding of a mask or an explored set."""
    kind = rng.choice(("masks", "explored"))
    if isinstance(parts.fields.get(kind), dict) and parts.fields[kind]:
        name = rng.choice(list(parts.fields[kind]))
        parts.fields[kind][name] = _changed(rng, parts.fields[kind][name])


def edit_tensor(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Change the bytes of a tensor."""
    tensor = _any(rng, parts)
    tensor.data = rng.choice((flip_bits, overwrite, truncate, remove, repeat))(rng, tensor.data, b"")


def edit_kind(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Change the dtype or the shape of a tensor."""
    tensor = _any(rng, parts)
    if rng.random() < 0.5:
        tensor.dtype = rng.choice(DTYPES)
    else:
        tensor.shape = _changed(rng, tensor.shape)


def rename(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Rename a tensor, or swap the names of two."""
    names = list(parts.tensors)
    one = rng.choice(names)
    other = rng.choice([*names, one + "x", one[1:], "", "hashes/x"])
    swap = {one: other, other: one}
    parts.tensors = {swap.get(name, name): tensor for name, tensor in parts.tensors.items()}


def leave_out(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Remove a tensor."""
    if len(parts.tensors) > 1:
        del parts.tensors[rng.choice(list(parts.tensors))]


def transplant(rng: random.Random, parts: Parts, donor: Parts) -> None:
    """Take a tensor of the other file, under its own name or in place of another."""
    name = rng.choice(list(donor.tensors))
    target = rng.choice((name, rng.choice(list(parts.tensors))))
    tensor = donor.tensors[name]
    parts.tensors[target] = Tensor(tensor.dtype, list(tensor.shape), tensor.data)


def reorder(rng: random.Random, parts: Parts, _: Parts) -> None:
    """Shuffle the tensors."""
    names = rng.sample(list(parts.tensors), len(parts.tensors))
    parts.tensors = {name: parts.tensors[name] for name in names}


DAMAGES: Mapping[str, Callable[[random.Random, bytes, bytes], bytes]] = {
    way.__name__: way for way in (flip_bits, overwrite, truncate, remove, repeat, splice, edit_header, edit_length)
}
"""All damages, by name."""

FORGERIES: Mapping[str, Callable[[random.Random, Parts, Parts], None]] = {
    way.__name__: way
    for way in (edit_fields, edit_counts, edit_tensor, edit_kind, rename, leave_out, transplant, reorder)
}
"""All forgeries, by name."""


def _any(rng: random.Random, parts: Parts) -> Tensor:
    return rng.choice(list(parts.tensors.values()))


def _stretch(rng: random.Random, data: bytes) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(begin + rng.choice((1, 2, 8, 32, 400, len(data))), len(data))


def _changed(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with one thing in it changed."""
    here = rng.random() < 0.2
    if isinstance(value, dict) and value and not here:
        key = rng.choice(list(value))
        rest = {other: item for other, item in value.items() if other != key}
        way = rng.random()
        if way < 0.1:
            return rest
        if way < 0.2:
            return {**rest, rng.choice(("x", "", key + "x", key.upper())): value[key]}
        if way < 0.3:
            return {**value, key: value[rng.choice(list(value))]}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list) and value and not here:
        at = rng.randrange(len(value))
        way = rng.random()
        if way < 0.1:
            return value[:at] + value[at + 1 :]
        if way < 0.2:
            return [*value, value[at]]
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, -8, 8, 255))
    if isinstance(value, str) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", "x", '"', "\\", "\u00e9", value)) + value[at + 1 :]
    return rng.choice(ODD_VALUES)
