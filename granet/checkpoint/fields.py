"""Validate the fields of an untrusted header: every access says what it expects, and the first mistake is an error.

Nothing is collected, converted or filled in; a hostile header of a million wrong fields costs one message.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError

MAX_DIMENSIONS = 16
"""The most dimensions a tensor may have; the limit of torch itself is somewhat higher."""

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Field:
    """A JSON value and its path in the header. Methods return it as the type they name, or raise CheckpointError."""

    value: Any
    where: str

    def refuse(self, expected: str) -> NoReturn:
        """Raise CheckpointError: the value is not ``expected``."""
        raise CheckpointError("not what a header has here", where=self.where, got=short(self.value), expected=expected)

    def object(self) -> dict[str, Any]:
        """Return a dict with string keys; its values are not checked."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return self.value

    def members(self) -> Iterator[tuple[str, Field]]:
        """Yield the keys and fields of an object."""
        for key, value in self.object().items():
            yield key, Field(value, f"{self.where}[{short(key)}]")

    def items(self, length: int | None = None) -> list[Field]:
        """Return the fields of a list, of this ``length`` if given."""
        if not isinstance(self.value, list) or length not in (None, len(self.value)):
            self.refuse("a list" if length is None else f"a list of {length}")
        return [Field(item, f"{self.where}[{number}]") for number, item in enumerate(self.value)]

    def record(self, *names: str) -> dict[str, Field]:
        """Return the fields of an object that has exactly these."""
        for name in sorted(self.object().keys() ^ set(names)):
            fault = "a header field is missing" if name in names else "an unknown header field"
            raise CheckpointError(fault, where=f"{self.where}[{short(name)}]")
        return dict(self.members())

    def count(self, least: int = 0) -> int:
        """Return an integer from ``least`` to 2**63 - 1."""
        if type(self.value) is not int or not least <= self.value <= _LARGEST:
            self.refuse(f"an integer of at least {least}")
        return self.value

    def text(self) -> str:
        """Return a string that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            self.refuse("a text")
        return self.value

    def one_of(self, choices: Sequence[str]) -> str:
        """Return one of the given strings."""
        if not isinstance(self.value, str) or self.value not in choices:
            self.refuse(f"one of {', '.join(choices)}")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """Return a list of strings, none of them empty or repeated."""
        if not self._is_list_of(str) or not all(self.value) or len(set(self.value)) != len(self.value):
            self.refuse("a list of different texts")
        return tuple(self.value)

    def floats(self, length: int) -> tuple[float, ...]:
        """Return a list of ``length`` floats."""
        if not self._is_list_of(float) or len(self.value) != length:
            self.refuse(f"a list of {length} floats")
        return tuple(self.value)

    def integers(self, length: int) -> tuple[int, ...]:
        """Return a list of ``length`` integers of at least 0."""
        if not self._is_list_of(int) or len(self.value) != length or min(self.value, default=0) < 0:
            self.refuse(f"a list of {length} integers of at least 0")
        return tuple(self.value)

    def shape(self) -> tuple[int, ...]:
        """Return a list of dimensions such that the number of bytes and every stride stay below 2**63."""
        # A dimension of 0 empties the tensor but not its strides, hence max(n, 1); 8 bytes is the widest element.
        if (
            not self._is_list_of(int)
            or len(self.value) > MAX_DIMENSIONS
            or min(self.value, default=0) < 0
            or 8 * math.prod(max(n, 1) for n in self.value) > _LARGEST
        ):
            self.refuse("the shape of a tensor")
        return tuple(self.value)

    def _is_list_of(self, kind: type) -> bool:
        # By exact type: True is no integer here.
        return isinstance(self.value, list) and all(type(item) is kind for item in self.value)
