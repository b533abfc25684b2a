"""Methods by name: one for every file of this package, and methods of users."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType

from granet.errors import UnknownNameError, UsageError
from granet.files.user_code import find
from granet.methods.base import REGISTERED, Method

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    importlib.import_module(f"granet.methods.{_module.name}")

METHODS: Mapping[str, type[Method]] = MappingProxyType(REGISTERED)
"""The methods by the names that recipes and the command line use, without those of users."""

_confirmed: dict[str, type[Method]] = {}


def is_own(name: str) -> bool:
    """Whether ``name`` stands for a class of the user's, ``package.module:Class``."""
    return ":" in name


def confirm(name: str) -> type[Method]:
    """Import the method ``package.module:Class`` and let recipes of this process use it.

    This runs the code of that module: never pass on a name from a file of unknown origin. A recipe or checkpoint that
    names such a method is only data until this was called.

    Raises:
        UsageError: a name of another form, a module or class that is not there, or not a method.
    """
    found = find(name, what="method", attribute="Class", error=UsageError)
    if not (isinstance(found, type) and issubclass(found, Method) and is_dataclass(found)):
        raise UsageError(
            "not a method",
            where=name,
            got=found.__name__ if isinstance(found, type) else type(found).__name__,
            expected="a frozen dataclass that extends granet.methods.Method",
        )
    return _confirmed.setdefault(name, found)


def is_known(name: str) -> bool:
    """Whether there is a class for ``name``: it is one of ``METHODS``, or was confirmed."""
    return name in METHODS or name in _confirmed


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        UnknownNameError: no such method.
        UsageError: a method of the user's that was not confirmed.
    """
    if is_known(name):
        return _confirmed.get(name) or METHODS[name]
    if not is_own(name):
        raise UnknownNameError("method", name, METHODS)
    raise UsageError(
        "the file names a method outside granet, whose code must be allowed first",
        got=name,
        remedy=f"confirm it with --method {name}, in Python with granet.methods.confirm({name!r})",
    )


def known_methods() -> Mapping[str, type[Method]]:
    """Return all methods whose settings are known: ``METHODS`` and those that were confirmed."""
    return {**METHODS, **_confirmed}
