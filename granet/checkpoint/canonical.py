"""Canonical JSON: equal values have the same text, and the parser refuses what it could not have written.

Keys are sorted, there is no white space, and text is ASCII with escapes, so that equal values give identical bytes.
What other programs would read differently is refused in both directions: numbers that are not finite, integers
beyond 64 bits, duplicate keys, deep nesting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from granet.errors import CheckpointError, shortened

MAX_DEPTH = 64
"""The most levels of nesting."""

_LOWEST, _HIGHEST = -(2**63), 2**64 - 1


def dumps(value: object, *, where: str) -> str:
    """Return the text of ``value``: dicts with string keys, lists, tuples (as lists), str, int, float, bool, None.

    Raises:
        CheckpointError: a value that has no such text; ``where``, extended by the path to it, says which.
    """
    _check(value, where)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(text: str, *, where: str) -> Any:
    """Parse ``text``, which need not be canonical.

    Raises:
        CheckpointError: text that is not JSON, or JSON that ``dumps`` could not have written.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("the header is not sound JSON", where=where, got=error) from None
    _check(value, where)
    return value


def short(value: object) -> str:
    """Return ``repr(value)``, cut to a length that fits a message."""
    return shortened(repr(value))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object with duplicate keys")
    return result


def _is_unicode(text: str) -> bool:
    """Whether ``text`` has no halves of surrogate pairs, which other programs refuse to read."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _check(value: object, where: str) -> None:
    for path, fault, remedy in _faults(value, MAX_DEPTH):
        raise CheckpointError(fault, where=where + path, remedy=remedy)


def _faults(value: object, depth: int) -> Iterator[tuple[str, str, str | None]]:
    """Yield what cannot be stored: the path to it, what is wrong, and what to do."""
    if isinstance(value, dict | list | tuple):
        if depth == 0:
            yield "", f"nested deeper than {MAX_DEPTH} levels", None
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(value, dict) and not (isinstance(key, str) and _is_unicode(key)):
                yield "", f"only Unicode strings can be keys in what is stored; got {short(key)}", None
            # Paths are put together from the inside, and only when something is wrong.
            for path, fault, remedy in _faults(item, depth - 1):
                yield f"[{short(key)}]{path}", fault, remedy
    elif isinstance(value, str) and not _is_unicode(value):
        yield "", f"text that is not Unicode cannot be stored; got {short(value)}", None
    elif isinstance(value, float) and not math.isfinite(value):
        yield "", f"a number that is not finite cannot be stored; got {value}", "leave it out, or store None instead"
    elif isinstance(value, int) and not _LOWEST <= value <= _HIGHEST:
        yield "", f"an integer outside {_LOWEST} to {_HIGHEST} cannot be stored", None
    elif value is not None and not isinstance(value, str | int | float):
        yield "", f"a {type(value).__name__} cannot be stored; expected dict, list, str, int, float, bool or None", None
