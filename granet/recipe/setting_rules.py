"""Which settings go with which method, optimizer and schedule.

A setting that the chosen one has no use for is a mistake, never ignored. For methods the answer is read off their
dataclasses, so that a new method needs no entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from granet.errors import RecipeError, UsageError
from granet.files.user_code import parse
from granet.methods.registry import is_known, is_own, known_methods, method_class
from granet.methods.settings import MethodSetting, Steps, settings_of
from granet.recipe import durations
from granet.recipe.durations import Duration
from granet.recipe.error_messages import UNKNOWN, relocated_error, shown


@dataclass(frozen=True)
class AllowedSettings:
    """The required and the optional settings of a method, optimizer or schedule."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Names of all settings, required ones first."""
        return self.required + self.optional


OPTIMIZERS: Mapping[str, AllowedSettings] = {
    "sgd": AllowedSettings(optional=("momentum", "nesterov")),
    "adam": AllowedSettings(),
    "adamw": AllowedSettings(),
    "rmsprop": AllowedSettings(optional=("momentum",)),
}
"""Settings of each optimizer in addition to those common to all."""

_REMOVE = "remove it; on the command line an empty value does, as in --set KEY="

SCHEDULES: Mapping[str, AllowedSettings] = {
    "multistep": AllowedSettings(required=("milestones",), optional=("gamma",)),
    "cosine": AllowedSettings(optional=("final_learning_rate",)),
    "constant": AllowedSettings(),
}
"""Settings of each learning-rate schedule in addition to the warm-up."""


def method_settings(name: str) -> AllowedSettings:
    """Return the settings of a method. Those that mask at all also take ``dense``, the patterns of what is not masked.

    Raises:
        UnknownNameError: no such method.
        UsageError: a method of the user's that was not confirmed.
    """
    settings = settings_of(method_class(name)).values()
    required = tuple(setting.name for setting in settings if setting.required)
    optional = tuple(setting.name for setting in settings if not setting.required)
    return AllowedSettings(required, (*optional, "dense") if "density" in required else optional)


def read_settings(name: str, given: Mapping[str, object]) -> tuple[dict[str, object], list[RecipeError]]:
    """Return the settings of a method as it takes them, with Durations for steps, and an error for each wrong one.

    Ranges of durations are not checked: that has to wait for the length of an epoch. A method of the user's that was
    not confirmed is data: its settings stay as they are, if they are plain.

    Raises:
        UnknownNameError: no such method.
    """
    if is_own(name) and not is_known(name):
        parse(name, what="method", attribute="Class")
        if len(given) > _MOST:
            raise UsageError("too many settings", got=len(given), expected=f"at most {_MOST}")
        return dict(given), [RecipeError(_NOT_PLAIN, where=key) for key in given if not _plain(key, given[key])]
    settings = settings_of(method_class(name))
    anywhere = {key for method in known_methods().values() for key in settings_of(method)}
    values, problems = dict(given), []
    for key, value in given.items():
        try:
            if key in settings:
                values[key] = _read(settings[key], value)
            elif key not in anywhere:
                raise UsageError(UNKNOWN)
        except UsageError as error:
            problems.append(relocated_error(error, key))
    return values, problems


def read_duration(value: object) -> Duration:
    """Return ``value`` as a Duration, parsed if it is text.

    Raises:
        UsageError: anything else; a number without its unit in particular.
    """
    if isinstance(value, Duration):
        return value
    if isinstance(value, str):
        return Duration.parse(value)
    raise UsageError("not a duration", got=shown(value), expected=durations.EXPECTED)


def _read(setting: MethodSetting, value: Any) -> object:
    if setting.kind is Steps:
        return read_duration(value)
    if setting.kind is None:
        raise UsageError("a recipe cannot hold this setting", expected="a number, text, true or false for its field")
    if not setting.takes(value):
        raise UsageError("wrong kind of value", got=shown(value), expected=setting.expected)
    if isinstance(value, int) and abs(value) >= 2**63:  # such a number may be too long to be shown
        raise UsageError("out of range", got=shown(value), expected=setting.expected)
    setting.check(value, where="")
    return float(value) if setting.kind is float else value


_MOST = 50
"""Settings that an unconfirmed method may have."""
_NOT_PLAIN = "not a plain setting: text of a line, true, false, or a number that is finite"


def _plain(key: str, value: object) -> bool:
    if not key.isidentifier() or len(key) > 64:
        return False
    if isinstance(value, str):
        return len(value) <= 500 and value.isprintable()
    return isinstance(value, int | float) and -(2**63) < value < 2**63


def setting_errors(name: str, allowed: AllowedSettings, given: Mapping[str, object]) -> list[RecipeError]:
    """Return an error for each missing required setting and for each setting that ``name`` does not have."""
    missing = [RecipeError(f"{name} needs this setting", where=key) for key in allowed.required if key not in given]
    has = f"one of {', '.join(allowed.known)}" if allowed.known else None
    useless = [
        RecipeError(f"{name} has no such setting", where=key, got=shown(value), expected=has, remedy=_REMOVE)
        for key, value in given.items()
        if key not in allowed.known
    ]
    return missing + useless
