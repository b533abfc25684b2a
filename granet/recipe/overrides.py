"""Which settings go with which method, optimizer and schedule.

A setting that the chosen one has no use for is a mistake, never ignored. For methods the answer is read off their
dataclasses, so that a new method needs no entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING

from granet.errors import RecipeError, UnknownNameError, UsageError
from granet.recipe.error_messages import moved, shown

if TYPE_CHECKING:
    from granet.methods.base import Method


@dataclass(frozen=True)
class Uses:
    """The settings that one choice requires, and those that it has besides."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Both, in order."""
        return self.required + self.optional


OPTIMIZERS: Mapping[str, Uses] = {
    "sgd": Uses(optional=("momentum", "nesterov")),
    "adam": Uses(),
    "adamw": Uses(),
    "rmsprop": Uses(optional=("momentum",)),
}
"""What an optimizer has besides the settings common to all."""

_REMOVE = "remove it; on the command line an empty value does, as in --set KEY="

SCHEDULES: Mapping[str, Uses] = {
    "multistep": Uses(required=("milestones",), optional=("gamma",)),
    "cosine": Uses(optional=("final_learning_rate",)),
    "constant": Uses(),
}
"""What a learning-rate schedule has besides the warm-up."""


def method_uses(name: str) -> Uses:
    """The settings of a method. Those that are masked at all also take ``dense``, the patterns of what is not.

    Raises:
        UnknownNameError: no such method.
    """
    cls = method_class(name)
    required = tuple(field.name for field in fields(cls) if field.default is MISSING)
    optional = tuple(field.name for field in fields(cls) if field.default is not MISSING)
    return Uses(required, (*optional, "dense") if "density" in required else optional)


def method_class(name: str) -> type[Method]:
    """The class of a method; methods are imported here because they need torch and a recipe does not.

    Raises:
        UnknownNameError: no such method.
    """
    from granet.methods import METHODS

    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


def range_problems(values: Mapping[str, object]) -> Iterator[RecipeError]:
    """One error for each setting of a method (steps, not durations) that is out of its range."""
    from granet.methods.base import check_setting

    for key, value in values.items():
        try:
            check_setting(key, value, where=key)
        except UsageError as error:
            yield moved(error, key)


def misfits(name: str, uses: Uses, given: Mapping[str, object]) -> list[RecipeError]:
    """One error for each setting that ``name`` requires and is not given, or that is given and it does not have."""
    missing = [RecipeError(f"{name} needs this setting", where=key) for key in uses.required if key not in given]
    has = f"one of {', '.join(uses.known)}" if uses.known else None
    useless = [
        RecipeError(f"{name} has no such setting", where=key, got=shown(value), expected=has, remedy=_REMOVE)
        for key, value in given.items()
        if key not in uses.known
    ]
    return missing + useless
