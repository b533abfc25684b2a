"""Code of users, named as ``package.module:attribute``: networks and methods of their own.

Importing it runs it. Callers pass on only names that the user gave or confirmed, never those of a file alone.
"""

from __future__ import annotations

import importlib
import keyword
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from granet.errors import GranetError, UsageError, nearest, shortened

_OURS = frozenset({"granet", "granet_cli", "exporters"})
_named: set[str] = set()
"""Packages that users named code of; it is theirs wherever it is installed."""


def parse(spec: str, *, what: str, attribute: str) -> tuple[str, str]:
    """Return module and attribute of ``package.module:attribute``, each of identifiers joined by dots.

    Raises:
        UsageError: ``spec`` has another form.
    """
    module_name, _, dotted = spec.partition(":")
    for name in (module_name, dotted):
        if not all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")):
            raise UsageError(
                f"not a {what}", got=repr(spec), expected=f"package.module:{attribute}, of identifiers and dots"
            )
    return module_name, dotted


def find(spec: str, *, what: str, attribute: str, error: type[GranetError]) -> Any:
    """Import the module and return the attribute that ``spec`` names.

    The module is looked for in the working directory first, then wherever Python looks. Messages call the thing
    ``what``, such as "method", and the part after the colon ``attribute``, such as "Class".

    Raises:
        UsageError: ``spec`` has another form than ``package.module:attribute``; the attribute may be dotted.
        GranetError: the module or the attribute is not there, or importing it fails; of the class ``error``.
    """
    module_name, dotted = parse(spec, what=what, attribute=attribute)
    _named.add(module_name.partition(".")[0])
    with working_directory_on_path():
        found = _import(spec, module_name, error)
    for part in dotted.split("."):
        if not hasattr(found, part):
            close = nearest(part, [name for name in dir(found) if not name.startswith("_")])
            raise error(
                f"{getattr(found, '__name__', module_name)!r} has no {part!r}",
                where=spec,
                remedy=f"did you mean {close!r}?" if close is not None else None,
            )
        found = getattr(found, part)
    return found


def described(error: BaseException, *, place: str | None = None) -> str:
    """Return class and message of an error on one line, and the user's line that raised it, or else ``place``."""
    text = f"{type(error).__name__}: {shortened(' '.join(str(error).split()), 600)}".removesuffix(": ")
    place = line_of(error) or place
    return text if place is None else f"{text} ({place})"


def line_of(error: BaseException) -> str | None:
    """Return file, line and function of the user's code that ``error`` came from: "nets.py, line 12, in forward".

    It is the innermost call of code that is neither granet's nor of an installed library, among those that granet made.
    None when there is none: then the error is granet's own, or of a library that granet called.
    """
    called, found = False, None
    for frame, number in traceback.walk_tb(error.__traceback__):
        called = called or _package(frame) in _OURS
        if called and _is_users(frame):
            found = f"{_shown(frame.f_code.co_filename)}, line {number}, in {frame.f_code.co_name}"
    return found


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_users(frame: FrameType) -> bool:
    package, file = _package(frame), frame.f_code.co_filename
    if package in _OURS:
        return False
    if package in _named:
        return True
    if package in sys.stdlib_module_names or file.startswith("<"):
        return False
    paths = sysconfig.get_paths()
    libraries = {paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")} | {*site.getsitepackages()}
    return not any(os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep) for folder in libraries)


def _shown(file: str) -> str:
    """Return a path relative to the working directory where it lies in there."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Let imports find modules in the working directory, which console scripts, unlike ``python -m``, do not see."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _import(spec: str, module_name: str, error: type[GranetError]) -> Any:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as cause:  # a script without its ``if __name__ == "__main__"`` may end the process
        # The module itself is missing, or one of its parents, rather than something that it imports.
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        absent = missing is not None and f"{module_name}.".startswith(f"{missing}.")
        raise error(
            f"there is no module {missing!r}" if absent else f"importing {module_name!r} failed",
            where=spec,
            got=None if absent else f"{type(cause).__name__}: {cause}",
            remedy="run granet from the folder that holds it, or install it" if absent else None,
        ) from cause
