"""How a method declares its settings: explanation, range and kind of value, all on the field.

    density: float = setting("Density at the end", above=0, at_most=1)
    interval: Steps = setting("Steps between updates", at_least=1, default=1000)
    decay: Decay = setting("How the drop fraction falls", default="cosine")

The annotation gives the kind of value: ``float``, ``int``, ``bool``, ``str``, a ``Literal`` of names, or ``Steps``,
which recipes write as a duration ("80ep" or "1000it"). ``X | None`` may be left out. Recipes and error messages read
everything from here; nothing has to be listed elsewhere.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from granet.errors import UnknownNameError, UsageError

Decay = Literal["cosine", "linear", "constant"]
Growth = Literal["gradient", "momentum", "random"]
Steps = Annotated[int, "optimizer steps"]
"""A number of optimizer steps; recipes write it as a duration."""


def setting(
    description: str,
    *,
    default: Any = MISSING,
    choices: Iterable[str] = (),
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a field of a method as a setting; without a default it is required.

    A subclass that only has another default writes just that: ``interval: Steps = 1500``.

    Args:
        description: one line, for people.
        default: its value when it is left out.
        choices: the names it can have; a ``Literal`` annotation says that by itself.
        above, at_least, below, at_most: the range of a number.
    """
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    metadata = {"description": description, "choices": tuple(choices), "limits": given}
    return field(default=default, metadata=metadata)


def fixed(value: Any) -> Any:
    """Declare a field that this method does not leave to choose, such as a setting of its base class."""
    return field(default=value, init=False, repr=False)


def number_in_words(limits: Mapping[str, float], *, whole: bool) -> str:
    """Return what numbers within ``limits`` are called, such as "a number from 0 to below 1"."""
    closed = "at_least" in limits and len(limits) > 1  # written as a range
    words = {"at_least": "from" if closed else "of at least", "above": "above"}
    words |= {"at_most": "to" if closed else "at most", "below": "to below" if closed else "below"}
    rules = (f"{words[name]} {limits[name]}" for name in words if name in limits)
    return " ".join(["a whole number" if whole else "a number", (" " if closed else " and ").join(rules)]).strip()


@dataclass(frozen=True)
class MethodSetting:
    """One setting of a method, read from its field.

    Attributes:
        name: of the field, and in recipes.
        kind: type of the value: float, int, bool, str or ``Steps``; None when it cannot be written in a recipe.
        choices: the names it can have; empty when it is not a choice.
        optional: whether None is a value.
        default: MISSING when the setting is required.
        description: one line.
        limits: ``above``, ``at_least``, ``below`` and ``at_most``, those that apply.
    """

    name: str
    kind: Any
    choices: tuple[str, ...]
    optional: bool
    default: Any
    description: str
    limits: Mapping[str, float]

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    @property
    def expected(self) -> str:
        """What values are allowed, such as "a number above 0 and at most 1"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in (bool, str):
            return "true or false" if self.kind is bool else "text"
        if self.kind is Steps:
            return f"a whole number of steps, {self.limits.get('at_least', 0)} or more"
        return number_in_words(self.limits, whole=self.kind is int)

    def takes(self, value: object) -> bool:
        """Whether ``value`` is of the kind that this setting takes, in its range or not."""
        if value is None:
            return self.optional
        if self.kind in (bool, str):
            return isinstance(value, self.kind)
        number = isinstance(value, int | float if self.kind is float else int) and not isinstance(value, bool)
        return number or self.kind is None

    def check(self, value: Any, *, where: str) -> None:
        """Raise UsageError when ``value`` is not one that this setting can have."""
        if self.choices and value is not None and value not in self.choices:
            raise UnknownNameError(self.name, str(value), self.choices, where=where)
        if not self.takes(value) or (value is not None and not self._in_range(value)):
            raise UsageError(f"{self.name} out of range", where=where, got=repr(value), expected=self.expected)

    def _in_range(self, value: Any) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        limits = {"at_least": 0, **self.limits} if self.kind is Steps else self.limits
        return all(_HOLDS[name](value, limit) for name, limit in limits.items())


_HOLDS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


def settings_of(method: type) -> Mapping[str, MethodSetting]:
    """Return the settings of a method by name, in the order of its fields, required ones first."""
    if method not in _read_before:
        hints = get_type_hints(method, include_extras=True)
        settings = [_read(method, item, hints[item.name]) for item in fields(method) if item.init]
        _read_before[method] = {found.name: found for found in sorted(settings, key=lambda found: not found.required)}
    return _read_before[method]


_read_before: dict[type, Mapping[str, MethodSetting]] = {}


def _read(method: type, item: Field[Any], hint: Any) -> MethodSetting:
    """Return the setting of a field; a subclass that only has another default has the metadata of its base class."""
    declarations = (getattr(cls, "__dataclass_fields__", {}).get(item.name) for cls in method.__mro__)
    metadata: Mapping[str, Any] = next((other.metadata for other in declarations if other and other.metadata), {})
    optional = NoneType in get_args(hint)
    kind = next(part for part in get_args(hint) if part is not NoneType) if optional else hint
    names = get_args(kind) if get_origin(kind) is Literal else metadata.get("choices", ())
    return MethodSetting(
        name=item.name,
        kind=str if names else kind if kind in (float, int, bool, str, Steps) else None,
        choices=names,
        optional=optional,
        default=item.default,
        description=metadata.get("description", ""),
        limits=metadata.get("limits", {}),
    )
