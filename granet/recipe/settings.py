"""Describe the settings of a recipe: what each dotted key takes, its default and what it does."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from granet.methods.registry import known_methods
from granet.methods.settings import MethodSetting, Steps, number_in_words, settings_of
from granet.recipe import durations
from granet.recipe.durations import Duration

_LIMITS = {"gt": "above", "ge": "at_least", "lt": "below", "le": "at_most"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a recipe.

    Attributes:
        key: its dotted name, such as "method.density".
        expected: the values it takes, such as "a number above 0 and at most 1".
        description: what it does.
        choices: the names it can have; empty when it is not a choice from a fixed list.
        text: whether it is written as a string.
    """

    key: str
    expected: str
    description: str
    choices: tuple[str, ...]
    text: bool

    def parse(self, text: str) -> object:
        """Parse ``text`` from a command line: TOML where that fits, else the text itself.

        Only the type is decided here; the recipe checks the value.
        """
        try:
            parsed = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):
            return text
        value = parsed["value"]
        plain = len(parsed) > 1 or (self.text and not isinstance(value, str))
        return text if plain else value


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of ``model`` and of the sections within it, in order."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        kind = _bare(field.annotation)
        if key == "method.settings":
            yield from describe_methods()
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from describe(kind, f"{key}.")
            continue
        yield Setting(
            key=key,
            expected=_expectation(kind, field.metadata),
            description=" ".join((field.description or "").split()),
            choices=get_args(kind) if get_origin(kind) is Literal else (),
            text=kind in (str, Duration) or get_origin(kind) is Literal,
        )


def describe_methods() -> Iterator[Setting]:
    """Describe the settings of all methods whose classes are known, each as the first method that has it does."""
    first: dict[str, MethodSetting] = {}
    for method in known_methods().values():
        first = {**settings_of(method), **first}
    for name, setting in first.items():
        duration = setting.kind is Steps
        yield Setting(
            key=f"method.{name}",
            expected=durations.EXPECTED if duration else setting.expected,
            description=setting.description,
            choices=setting.choices,
            text=duration or setting.kind is str,
        )


def _bare(annotation: Any) -> Any:
    """Return the type inside ``X | None`` and ``Annotated[X, ...]``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next(kind for kind in get_args(annotation) if kind is not type(None)))
    return annotation


def _expectation(kind: Any, metadata: list[Any]) -> str:
    if kind is Duration:
        return durations.EXPECTED
    if kind is bool:
        return "true or false"
    if kind is str:
        return "text"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        items = {Duration: 'durations, such as ["80ep", "120ep"]', float: "numbers"}
        return f"a list of {items.get(_bare(get_args(kind)[0]), 'texts')}"
    limits = {_LIMITS[name]: getattr(rule, name) for rule in metadata for name in _LIMITS if hasattr(rule, name)}
    return number_in_words(limits, whole=kind is int)
