"""Call what a user named as ``package.module:factory``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from granet.errors import ModelError
from granet.files.user_code import described, find, working_directory_on_path


def call(spec: str, **offered: int) -> Any:
    """Call the factory with those of the ``offered`` keyword arguments that it accepts, and return its result.

    The module is looked for in the working directory first, then wherever Python looks. This runs the code that
    ``spec`` names: never pass on a name from a file of unknown origin.

    Raises:
        UsageError: ``spec`` is not of the form ``package.module:factory``.
        ModelError: the module or the factory is not there, or fails.
    """
    with working_directory_on_path():
        factory = find(spec, what="model factory", attribute="factory", error=ModelError)
        if not callable(factory) or isinstance(factory, nn.Module):
            raise ModelError(
                "not a factory",
                where=spec,
                got=type(factory).__name__,
                expected="a function or a class",
                remedy="name a function that makes the network" if isinstance(factory, nn.Module) else None,
            )
        arguments = _accepted(spec, factory, offered)
        try:
            return factory(**arguments)
        except (Exception, SystemExit) as error:
            raise ModelError(
                "the factory failed",
                where=spec,
                got=described(error),
                remedy=f"it was called with {', '.join(f'{k}={v}' for k, v in arguments.items()) or 'nothing'}",
            ) from error


def _accepted(spec: str, factory: Callable[..., Any], offered: dict[str, int]) -> dict[str, int]:
    """Return the offered arguments that the factory has parameters for; all of them where it takes ``**anything``."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise ModelError(
            "the parameters of the factory are unknown", where=spec, remedy="wrap it in a function"
        ) from error
    parameters = signature.parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    arguments = {name: value for name, value in offered.items() if takes_any or name in named}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"the factory cannot be called: {error}",
            where=spec,
            expected=f"no mandatory parameters besides {', '.join(offered)}",
            remedy="give it a default, or wrap the factory in a function",
        ) from error
    return arguments
