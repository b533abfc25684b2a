"""Every error granet raises on purpose.

    GranetError                     the work failed                       exit code 1
    ├── UsageError (ValueError)     what was asked for cannot be done     exit code 2
    │   ├── UnknownNameError        a name that is not in a catalog
    │   ├── RecipeError             a recipe that does not validate
    │   └── DeviceError             a device that is not there
    ├── ModelError                  a network that cannot be built, traced or matched
    ├── DataError                   data that is missing, damaged or inconsistent
    ├── FileError                   a file that cannot be read or written
    │   └── CheckpointError         a file that can be read but is damaged, or not what it should be
    ├── TrainingError               training that cannot go on, such as a loss that is not finite
    │   └── LostRankError           another process of the same run is gone
    ├── BenchmarkError              a measurement that cannot be made or would not be believed
    └── Interrupted                 stopped by a signal, state saved       exit code 130

An error says what is wrong, where, what was found, what was expected and what to do about it. Only the first
is mandatory; the message is put together here so that all of them read alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GranetError(Exception):
    """Base of all errors that are meant for the user; anything else that escapes is a bug.

    Args:
        what: the rule that was broken, as a sentence without its full stop.
        where: the file, layer, field or option concerned.
        got: what was found there.
        expected: what would have been right.
        remedy: what the user can do.
    """

    exit_code = 1
    everywhere = False
    """Whether every rank of a run on several processes raises this very error, so that one of them may tell it."""

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.remedy = what, where, got, expected, remedy
        message = f"{where}: {what}" if where is not None else what
        if got is not None:
            message += f"; got {got}"
        if expected is not None:
            message += f"; expected {expected}"
        if remedy is not None:
            message += f". {remedy[:1].upper()}{remedy[1:]}"
        super().__init__(message)


class UsageError(GranetError, ValueError):
    """What was asked for cannot be done, and no attempt was made."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a catalog; the message gives the nearest one, or all of a short catalog."""

    def __init__(self, kind: str, name: str, choices: Iterable[str], *, where: object = None) -> None:
        self.kind, self.name, self.choices = kind, name, sorted(choices)
        close = nearest(name, self.choices)
        if close is not None:
            remedy = f"did you mean {close!r}?"
        elif len(self.choices) <= 24:
            remedy = f"there are: {', '.join(self.choices) or 'none'}"
        else:
            remedy = None
        super().__init__(f"unknown {kind} {name!r}", where=where, remedy=remedy)


class RecipeError(UsageError):
    """A recipe, or a setting of one, that does not validate."""


class DeviceError(UsageError):
    """A device that was asked for and is not there."""


class ModelError(GranetError):
    """A network that cannot be built, traced, or matched with a checkpoint."""


class DataError(GranetError):
    """Data that is missing, damaged or inconsistent; the file or folder is named."""


class FileError(GranetError):
    """A file that cannot be read or written; the system's reason is given."""


class CheckpointError(FileError):
    """A file that can be read but is damaged or not what it should be, or a value that no checkpoint can hold."""


class TrainingError(GranetError):
    """Training that cannot go on; the last good checkpoint is untouched."""


class LostRankError(TrainingError):
    """Another rank of the run cannot be reached; see that rank's own message."""


class BenchmarkError(GranetError):
    """A measurement that cannot be made, such as on a provider that is not there, or that is not to be believed."""


class Interrupted(GranetError):  # noqa: N818  it is not an error of anybody's
    """Stopped by a signal; the state was saved and the message says how to resume."""

    exit_code = 130


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like ``name``, or None when none comes close."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.55)
    return matches[0] if matches else None


def listing(items: Iterable[object], most: int = 1, *, separator: str = ", ", width: int = 1000) -> str:
    """Return the first ``most`` items, each cut to ``width``, and how many more there are: "a, b and 3 more"."""
    texts = [shortened(str(item), width) for item in items]
    shown = separator.join(texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: "1 update", "3 updates"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortened(text: str, length: int = 80) -> str:
    """Return ``text``, or its beginning and "..." where it has more than ``length`` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."
