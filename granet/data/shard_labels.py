"""Labels of examples in archives: read from what stands beside an image, and turned into indices of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from granet.errors import DataError, nearest

MAX_CLS = 1024
"""Bytes of a .cls member."""

MAX_JSON = 1 << 20
"""Bytes of a .json member."""

MAX_CLASSES_FILE = 1 << 24
"""Bytes of classes.txt."""

MAX_CLASS_NAME = 500

CLASSES_FILE = "classes.txt"

Label = int | str
"""A number, or the name of a class."""


def from_cls(data: bytes) -> Label:
    """The label that a .cls member gives: a whole number, or the name of a class.

    Raises:
        ValueError: neither; the message says what is there.
    """
    try:
        return _meant(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(repr(data[:40])) from None


def from_json(data: bytes) -> Label:
    """The label that a .json member gives under "label".

    Raises:
        ValueError: it is not an object with a number or a name there; the message says what is there.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict) or "label" not in value:
        raise ValueError('JSON without "label"')
    label = value["label"]
    if isinstance(label, str):
        return _meant(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**53:
        raise ValueError(f'"label": {str(type(label).__name__ if isinstance(label, int) else label)[:60]}')
    return label


def _meant(text: str) -> Label:
    text = text.strip()
    if not text or len(text) > MAX_CLASS_NAME or not text.isprintable():
        raise ValueError(repr(text[:40]))
    return int(text) if text.isdecimal() and len(text) <= 15 else text


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in classes.txt: one a line, the first for label 0.

    Raises:
        DataError: not such a file, a line that is no name, or a name that comes twice or looks like another's number.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CLASSES_FILE + 1)
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("cannot be read", where=path, got=error, expected="UTF-8 text") from error
    if len(data) > MAX_CLASSES_FILE or not lines:
        raise DataError("not a list of classes", where=path, got=f"{len(data)} bytes", expected="one name a line")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines):
        where, name = f"{path}, line {number + 1}", line.strip()
        if not name or len(name) > MAX_CLASS_NAME or not name.isprintable():
            raise DataError("not the name of a class", where=where, got=repr(name[:40]), expected="one name a line")
        if name in seen:
            raise DataError("the same class twice", where=where, got=repr(name), expected=f"only in line {seen[name]}")
        if name.isdecimal() and name != str(number):
            raise DataError(
                "a class whose name is the number of another",
                where=where,
                got=name,
                expected=f"{number}, or a name that is no number",
                remedy="a label that is a number means the line, from 0",
            )
        seen[name] = number + 1
    return tuple(seen)


def derive_classes(labels: Iterable[Label], examples: int, *, where: object) -> tuple[str, ...]:
    """The classes that the labels of the training images make: all numbers up to the largest, or all names in order.

    Args:
        labels: those that occur.
        examples: how many images there are.
        where: the folder, for messages.

    Raises:
        DataError: numbers and names are mixed, or a number is left out.
    """
    found = set(labels)
    numbers = {label for label in found if isinstance(label, int)}
    remedy = f"add a {CLASSES_FILE} with the name of each class on a line of its own"
    if numbers and numbers != found:
        name = min(label for label in found if isinstance(label, str))
        raise DataError("labels are numbers and names", where=where, got=f"{min(numbers)} and {name!r}", remedy=remedy)
    if not numbers:
        return tuple(sorted(label for label in found if isinstance(label, str)))
    largest = max(numbers)
    if largest >= examples or len(numbers) != largest + 1:
        missing = next(number for number in range(len(numbers) + 1) if number not in numbers)
        raise DataError(
            f"no training image has label {missing}, though labels go up to {largest}", where=where, remedy=remedy
        )
    return tuple(str(number) for number in range(largest + 1))


def indices(labels: Sequence[Label], classes: Sequence[str], where: Callable[[int], object]) -> list[int]:
    """The labels as indices into ``classes``.

    Args:
        labels: of examples.
        classes: their names.
        where: what to call the example at a position, for messages.

    Raises:
        DataError: a number out of range, or a name that is none of them.
    """
    numbers: dict[Label, int] = {name: number for number, name in enumerate(classes)}
    numbers |= {number: number for number in range(len(classes))}
    result = []
    for position, label in enumerate(labels):
        number = numbers.get(label)
        if number is None:
            close = nearest(label, classes) if isinstance(label, str) else None
            raise DataError(
                "a label out of range" if isinstance(label, int) else "a label that is no class",
                where=where(position),
                got=repr(label),
                expected=f"a number from 0 to {len(classes) - 1}" if isinstance(label, int) else "one of the classes",
                remedy=f"did you mean {close!r}?" if close else f"correct it, or the classes in {CLASSES_FILE}",
            )
        result.append(number)
    return result
