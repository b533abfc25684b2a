"""Which runs a name stands for, read off the files that are there.

A name is the folder of a run, that of a rewind in several rounds, a folder that holds such folders, or a pattern for
any of them. The names of files are those of ``granet.training``, which is above this rung; a test holds them together.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from granet.errors import UsageError, nearest

RECIPE, LAST, BEST = "recipe.toml", "last.safetensors", "best.safetensors"
"""Files of a run: its recipe, its newest state, and the best epoch, which is what the test set is met with."""

HISTORY = "history.bin"
"""The file that has every change of a run's masks, see ``granet.history``."""

REWIND = "rewind.toml"
"""The file that the folder of a rewind in several rounds has."""

_ROUND = re.compile(r"round-\d{2,}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that was named and is not, or not wholly, part of what was found."""

    path: str
    message: str
    """A sentence, which names the file or folder."""


def find(names: Iterable[str]) -> tuple[list[Path], list[Problem]]:
    """The folders of all runs that are named, in that order and each once, and what there is to say of the rest.

    Runs within a folder, and what a pattern stands for, are in the order of their names, numbers in that of their
    values.
    """
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for name in names:
        for path in _expanded(name):
            try:
                runs, unfit = _runs_at(path)
            except UsageError as error:
                problems.append(Problem(path=str(path), message=str(error)))
                continue
            except OSError as error:
                problems.append(Problem(path=str(path), message=f"{path}: {error.strerror}"))
                continue
            problems += unfit
            for run in runs:
                first = found.setdefault(os.path.realpath(run), run)
                if first is not run:
                    message = f"{run}: named more than once, as {first}; counted once"
                    problems.append(Problem(path=str(run), message=message))
    return list(found.values()), problems


def holds_run(path: Path) -> bool:
    """Whether a run was begun in this folder."""
    return (path / RECIPE).is_file() or (path / LAST).is_file()


def is_held(path: Path) -> bool:
    """Whether a process on this machine trains in this folder: training locks it, see ``granet.runs.folder``.

    Where the file system knows no locks the answer is no. The lock is asked for and let go at once.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _expanded(name: str) -> list[Path]:
    """What a name stands for: itself, or what matches it when it is a pattern and not there as it is written."""
    if not os.path.lexists(name) and glob.has_magic(name):
        matches = sorted(glob.glob(name), key=_natural)  # noqa: PTH207  a pattern may be absolute
        return [Path(match) for match in matches] or [Path(name)]
    return [Path(name)]


def _runs_at(path: Path) -> tuple[list[Path], list[Problem]]:
    """The runs that an existing folder stands for, and problems with some of those in it.

    Raises:
        UsageError: none at all.
        OSError: it cannot be looked into.
    """
    if not path.is_dir():
        there = os.path.lexists(path)
        raise UsageError(
            "not a folder" if there else "nothing of this name is there",
            where=path,
            expected="the folder of a run, or one that holds runs",
            remedy="name the folder that the file is in" if there else _hint(path),
        )
    if _is_unit(path):
        return _runs_of(path), []
    runs: list[Path] = []
    problems: list[Problem] = []
    for child in _children(path):
        if _is_unit(child):
            try:
                runs += _runs_of(child)
            except UsageError as error:
                problems.append(Problem(path=str(child), message=str(error)))
    if not runs and not problems:
        raise UsageError("no run here", where=path, expected=f"{LAST} or {RECIPE}, in it or in a folder within it")
    return runs, problems


def _hint(path: Path) -> str | None:
    """The folder beside it that it may have been meant for."""
    try:
        close = nearest(path.name, [child.name for child in _children(path.parent)])
    except OSError:
        return None
    return None if close is None else f"did you mean {path.with_name(close)}?"


def _is_unit(path: Path) -> bool:
    return (path / REWIND).is_file() or holds_run(path)


def _runs_of(path: Path) -> list[Path]:
    """A run is one; the rounds of a rewind are one each.

    Raises:
        UsageError: no round was begun.
    """
    if not (path / REWIND).is_file():
        return [path]
    rounds = [child for child in _children(path) if _ROUND.fullmatch(child.name) and holds_run(child)]
    if not rounds:
        raise UsageError("no round of this rewind was begun yet", where=path)
    return rounds


def _children(path: Path) -> Iterator[Path]:
    """The folders within, by name, without hidden ones."""
    children = sorted(path.iterdir(), key=lambda child: _natural(child.name))
    return (child for child in children if not child.name.startswith(".") and child.is_dir())


def _natural(name: str) -> list[tuple[float, str]]:
    """Sorts seed-2 before seed-10, and density-0.05 before density-0.1."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", name)
    return [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]
