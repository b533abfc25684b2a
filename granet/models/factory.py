"""A user's own network, named as ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import keyword
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from granet.errors import ModelError, UsageError, nearest


def build_from_factory(spec: str, *, in_channels: int, classes: int, image_size: int) -> nn.Module:
    """The network that the factory returns; see :func:`call`, which this adds to.

    Raises:
        UsageError: ``spec`` is not of the form ``package.module:factory``.
        ModelError: the module or the factory is not there, fails, or returns something else than a network.
    """
    network = call(spec, in_channels=in_channels, classes=classes, image_size=image_size)
    if not isinstance(network, nn.Module):
        raise ModelError("not a network", where=spec, got=type(network).__name__, expected="a torch.nn.Module")
    return network


def call(spec: str, **offered: int) -> Any:
    """What the factory returns, called with those of the ``offered`` keyword arguments that it accepts.

    The module is looked for in the working directory first, then wherever Python looks. This runs the code that
    ``spec`` names: never pass on a name from a file of unknown origin.

    Raises:
        UsageError: ``spec`` is not of the form ``package.module:factory``.
        ModelError: the module or the factory is not there, or fails.
    """
    module_name, factory_name = parse(spec)
    with _working_directory_on_path():
        factory = _find(spec, module_name, factory_name)
        arguments = _accepted(spec, factory, offered)
        try:
            return factory(**arguments)
        except (Exception, SystemExit) as error:
            raise ModelError(
                "the factory failed",
                where=spec,
                got=f"{type(error).__name__}: {error}",
                remedy=f"it was called with {', '.join(f'{k}={v}' for k, v in arguments.items()) or 'nothing'}",
            ) from error


def parse(spec: str) -> tuple[str, str]:
    """Module and factory of ``package.module:factory``, each of identifiers joined by dots.

    Raises:
        UsageError: ``spec`` has another form.
    """
    module_name, _, factory_name = spec.partition(":")
    for dotted in (module_name, factory_name):
        if not all(part.isidentifier() and not keyword.iskeyword(part) for part in dotted.split(".")):
            raise UsageError(
                "not a model factory",
                got=repr(spec),
                expected="package.module:factory, of identifiers and dots",
            )
    return module_name, factory_name


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """The entry point of a console script, unlike ``python -m``, does not see the folder it is run in."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _find(spec: str, module_name: str, factory_name: str) -> Callable[..., Any]:
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script without its ``if __name__ == "__main__"`` may end the process
        # The module itself is missing, or one of its parents, rather than something that it imports.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        absent = missing is not None and f"{module_name}.".startswith(f"{missing}.")
        raise ModelError(
            f"there is no module {missing!r}" if absent else f"importing {module_name!r} failed",
            where=spec,
            got=None if absent else f"{type(error).__name__}: {error}",
            remedy="run granet from the folder that holds it, or install it" if absent else None,
        ) from error
    for part in factory_name.split("."):
        if not hasattr(found, part):
            close = nearest(part, [name for name in dir(found) if not name.startswith("_")])
            raise ModelError(
                f"{getattr(found, '__name__', module_name)!r} has no {part!r}",
                where=spec,
                remedy=f"did you mean {close!r}?" if close is not None else None,
            )
        found = getattr(found, part)
    if not callable(found):
        raise ModelError("not a factory", where=spec, got=type(found).__name__, expected="a function or a class")
    factory: Callable[..., Any] = found
    return factory


def _accepted(spec: str, factory: Callable[..., Any], offered: dict[str, int]) -> dict[str, int]:
    """The offered arguments that the factory has parameters for; all of them where it takes ``**anything``."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise ModelError(
            "not a factory that tells its parameters", where=spec, remedy="wrap it in a function"
        ) from error
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {parameter.name for parameter in parameters if parameter.kind in by_name}
    for parameter in parameters:
        supplied = parameter.name in offered and parameter.kind in by_name
        if parameter.default is parameter.empty and parameter.kind not in variadic and not supplied:
            raise ModelError(
                f"the factory needs {parameter.name!r}, which nobody gives it",
                where=spec,
                expected=f"no mandatory parameters besides {', '.join(offered)}",
                remedy="give it a default, or wrap the factory in a function",
            )
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    return {name: value for name, value in offered.items() if name in named}
