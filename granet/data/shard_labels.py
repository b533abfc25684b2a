"""Labels of examples in archives: parsed from their members, and turned into indices of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from granet.errors import DataError, nearest

MAX_LABEL_BYTES = {"cls": 1024, "json": 1 << 20}
"""Members that give a label, the preferred one first, and their largest size."""

MAX_CLASSES_FILE = 1 << 24
"""Bytes of classes.txt."""

MAX_CLASS_NAME = 500

CLASSES_FILE = "classes.txt"

Label = int | str
"""A number, or the name of a class."""


def parse_label(extension: str, data: bytes) -> Label:
    """Return the label in a member: the text of a .cls, or what a .json has under "label".

    Raises:
        ValueError: it is neither a whole number nor a name; the message says what is there.
    """
    if extension == "cls":
        try:
            return _number_or_name(data.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(repr(data[:40])) from None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict) or "label" not in value:
        raise ValueError('JSON without "label"')
    label = value["label"]
    if isinstance(label, str):
        return _number_or_name(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**53:
        raise ValueError(f'"label": {str(type(label).__name__ if isinstance(label, int) else label)[:60]}')
    return label


def _number_or_name(text: str) -> Label:
    text = text.strip()
    if not _is_class_name(text):
        raise ValueError(repr(text[:40]))
    return int(text) if text.isdecimal() and len(text) <= 15 else text


def _is_class_name(text: str) -> bool:
    return 0 < len(text) <= MAX_CLASS_NAME and text.isprintable()


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the names in classes.txt: one a line, the first for label 0.

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
    line_numbers: dict[str, int] = {}
    for number, line in enumerate(lines):
        where, name = f"{path}, line {number + 1}", line.strip()
        if not _is_class_name(name):
            raise DataError("not the name of a class", where=where, got=repr(name[:40]), expected="one name a line")
        if name in line_numbers:
            raise DataError(
                "the same class twice", where=where, got=repr(name), expected=f"only in line {line_numbers[name]}"
            )
        if name.isdecimal() and name != str(number):
            raise DataError(
                "a class whose name is the number of another",
                where=where,
                got=name,
                expected=f"{number}, or a name that is no number",
                remedy="a label that is a number means the line, from 0",
            )
        line_numbers[name] = number + 1
    return tuple(line_numbers)


def derive_classes(labels: Iterable[Label], examples: int, *, where: object) -> tuple[str, ...]:
    """Return the classes that the training labels make up: all numbers up to the largest, or all names in order.

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


def label_indices(labels: Sequence[Label], classes: Sequence[str], where: Callable[[int], object]) -> list[int]:
    """Return labels as indices into ``classes``.

    Args:
        labels: of examples.
        classes: their names.
        where: what to call the example at a position, for messages.

    Raises:
        DataError: a number is out of range, or a name is none of the classes.
    """
    numbers: dict[Label, int] = {name: number for number, name in enumerate(classes)}
    numbers |= {number: number for number in range(len(classes))}
    for position, label in enumerate(labels):
        if label not in numbers:
            close = nearest(label, classes) if isinstance(label, str) else None
            raise DataError(
                "a label out of range" if isinstance(label, int) else "a label that is not a class",
                where=where(position),
                got=repr(label),
                expected=f"a number from 0 to {len(classes) - 1}" if isinstance(label, int) else "one of the classes",
                remedy=f"did you mean {close!r}?" if close else f"correct it, or the classes in {CLASSES_FILE}",
            )
    return [numbers[label] for label in labels]
