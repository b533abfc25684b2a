"""Find the runs that a name stands for.

A name is the folder of a run, of a rewind in several rounds, a folder that contains such folders, or a pattern for any
of them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from granet.errors import UsageError, nearest
from granet.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A name that could not be found, or only in part."""

    path: str
    message: str
    """A sentence, which names the file or folder."""


def find(names: Iterable[str]) -> tuple[list[Path], list[Problem]]:
    """Return the folders of all runs that ``names`` stand for, each once, and the problems with others.

    They are in the order of ``names``; runs within a folder, and matches of a pattern, are sorted by name, with numbers
    by value.
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


def _expanded(name: str) -> list[Path]:
    """Return the path of that name, or the matches of a pattern where there is no such path."""
    if not os.path.lexists(name) and glob.has_magic(name):
        matches = sorted(glob.glob(name), key=_natural)  # noqa: PTH207  a pattern may be absolute
        return [Path(match) for match in matches] or [Path(name)]
    return [Path(name)]


def _runs_at(path: Path) -> tuple[list[Path], list[Problem]]:
    """Return the runs in a folder, and problems with some of them.

    Raises:
        UsageError: there is none at all.
        OSError: the folder cannot be read.
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
        files = RunFolder(path)
        expected = f"{files.last.name} or {files.recipe_file.name}, in it or in a folder within it"
        raise UsageError("no run here", where=path, expected=expected)
    return runs, problems


def _hint(path: Path) -> str | None:
    """Suggest a folder of a similar name in the same place."""
    try:
        close = nearest(path.name, [child.name for child in _children(path.parent)])
    except OSError:
        return None
    return None if close is None else f"did you mean {path.with_name(close)}?"


def _is_unit(path: Path) -> bool:
    return RunFolder(path).rewind_file.is_file() or RunFolder(path).holds_run()


def _runs_of(path: Path) -> list[Path]:
    """Return the folder of a run, or those of the rounds of a rewind.

    Raises:
        UsageError: no round was begun.
    """
    if not RunFolder(path).rewind_file.is_file():
        return [path]
    rounds = [folder.path for folder in RunFolder(path).rounds() if folder.holds_run()]
    if not rounds:
        raise UsageError("no round of this rewind was begun yet", where=path)
    return rounds


def _children(path: Path) -> Iterator[Path]:
    """Yield the folders in a folder, sorted by name, without hidden ones."""
    children = sorted(path.iterdir(), key=lambda child: _natural(child.name))
    return (child for child in children if not child.name.startswith(".") and child.is_dir())


def _natural(name: str) -> list[tuple[float, str]]:
    """Return a key that sorts seed-2 before seed-10, and density-0.05 before density-0.1."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", name)
    return [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]
