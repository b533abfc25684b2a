"""What the settings of methods can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from granet.allocation import Allocation
from granet.errors import UnknownNameError, UsageError

Decay = Literal["cosine", "linear", "constant"]
Growth = Literal["gradient", "momentum", "random"]
Check = tuple[Callable[[object], bool], str]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _within(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        number = _number(value)
        if number is None:
            return False
        return (low < number if open_low else low <= number) and (number < high if open_high else number <= high)

    return check


def _steps(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


_RULES: Mapping[str, Check] = {
    "density": (_within(0, 1, open_low=True), "a number above 0 and at most 1"),
    "initial_density": (_within(0, 1, open_low=True), "a number above 0 and at most 1"),
    "drop_fraction": (_within(0, 1, open_low=True), "a number above 0 and at most 1"),
    "final_drop_fraction": (_within(0, 1), "a number from 0 to 1"),
    "classifier_density": (_within(0, 1), "a number from 0 to 1"),
    "momentum": (_within(0, 1, open_high=True), "a number from 0 to below 1"),
    "start": (_steps(0), "a whole number of steps, 0 or more"),
    "end": (_steps(1), "a whole number of steps, 1 or more"),
    "stop": (_steps(1), "a whole number of steps, 1 or more"),
    "interval": (_steps(1), "a whole number of steps, 1 or more"),
    "first_dense": (lambda value: isinstance(value, bool), "true or false"),
}
_OPTIONAL = {"end", "stop", "final_drop_fraction", "allocation"}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "decay": get_args(Decay),
    "growth": get_args(Growth),
    "allocation": get_args(Allocation),
}


def check_setting(name: str, value: object, *, where: str) -> None:
    """Raises UsageError when ``value`` is not one that the setting ``name`` of a method can have."""
    if value is None and name in _OPTIONAL:
        return
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise UnknownNameError(name, str(value), _CHOICES[name], where=where)
        return
    if name not in _RULES:  # a setting of a method that somebody else wrote
        return
    holds, expected = _RULES[name]
    if not holds(value):
        raise UsageError(f"{name} out of range", where=where, got=repr(value), expected=expected)
