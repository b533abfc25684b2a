"""Error messages of a recipe: every mistake with its dotted key, what was found and what was expected."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from granet.errors import RecipeError, UsageError, nearest
from granet.recipe.durations import Duration

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from granet.recipe.settings import Setting

_MOST = 20
"""The most mistakes that one error lists."""

UNKNOWN = "unknown setting"
"""What a section says of a setting that no choice has; the nearest one is found where all sections are known."""

_RULES = {
    "greater_than": "out of range",
    "greater_than_equal": "out of range",
    "less_than": "out of range",
    "less_than_equal": "out of range",
    "finite_number": "not a finite number",
    "string_pattern_mismatch": "more than one line, or control characters",
    "string_too_short": "empty",
    "string_too_long": "too long",
    "too_long": "too long",
}


class _Short(reprlib.Repr):
    """Cuts values of any size and depth to a line."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 80, 80

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002  reprlib calls it so
        """Python refuses to print numbers of thousands of digits."""
        return repr(x) if abs(x) < 2**63 else "a number beyond 64 bits"

    def repr_Duration(self, x: Duration, level: int) -> str:  # noqa: ARG002, N802  reprlib calls it so
        """As a recipe writes it."""
        return f'"{x}"'

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        """TOML has lists only."""
        return self.repr_list(list(x), level)

    def name(self, key: str) -> str:
        """Return ``key``, or its repr where it would break the line or fill the screen."""
        return key if key.isprintable() and len(key) <= self.maxstring else self.repr(key)


_SHORT = _Short()


class SectionError(ValueError):
    """The mistakes of one section, as a pydantic validator raises them; keys are relative to the section."""

    def __init__(self, problems: Iterable[RecipeError]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{len(self.problems)} problems")


def shown(value: object) -> str:
    """Return ``value`` about as a recipe would write it, cut to a line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.isprintable() and len(value) <= 80:
        return f'"{value}"'
    return _SHORT.repr(value)


def combined(problems: Sequence[RecipeError], *, where: object) -> RecipeError:
    """Return one error for all problems; ``where`` is the file or the recipe."""
    if len(problems) == 1:
        return relocated_error(problems[0], f"{where}: {problems[0].where}" if problems[0].where else where)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RecipeError(f"several settings are wrong:{lines}", where=where)


def relocated_error(error: UsageError, where: object, *, got: object = None) -> RecipeError:
    """Return the same mistake as a RecipeError at ``where``."""
    got = error.got if got is None else got
    return RecipeError(error.what, where=where, got=got, expected=error.expected, remedy=error.remedy)


def unknown_setting_error(key: str, settings: Mapping[str, Setting]) -> RecipeError:
    """Return the error for an unknown setting; it suggests a namesake in another section or the nearest setting."""
    section, _, leaf = key.rpartition(".")
    keys = [*settings, *dict.fromkeys(other.partition(".")[0] for other in settings)]
    siblings = {other.rpartition(".")[2]: other for other in keys if other.rpartition(".")[0] == section}
    # Settings of a rewind are written by granet, not by users.
    namesakes = [o for o in settings if o.rpartition(".")[2] == leaf and not o.startswith("rewind.")]
    close = nearest(leaf, siblings)
    remedy = None
    if namesakes:
        remedy = f"did you mean {' or '.join(namesakes)}?"
    elif close is not None:
        remedy = f"did you mean {siblings[close]}?"
    elif siblings:
        remedy = f"there are: {', '.join(siblings.values())}"
    return RecipeError(UNKNOWN, where=key, remedy=remedy)


def from_pydantic(error: ValidationError, settings: Mapping[str, Setting]) -> list[RecipeError]:
    """Return the mistakes that pydantic found, in the order of the recipe."""
    details = error.errors(include_url=False)
    problems: list[RecipeError] = []
    for detail in details[:_MOST]:
        problems += _errors_from_detail(detail, settings)
    if len(details) > _MOST:
        problems.append(RecipeError(f"and {len(details) - _MOST} more"))
    return problems


def _errors_from_detail(detail: ErrorDetails, settings: Mapping[str, Setting]) -> list[RecipeError]:
    """Return the errors for one mistake that pydantic found: several where a validator of ours found several."""
    key = ".".join(_SHORT.name(part) for part in detail["loc"] if isinstance(part, str))
    where = key + "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
    rule, value, got = detail["type"], detail["input"], shown(detail["input"])
    cause: Any = detail.get("ctx", {}).get("error")
    if isinstance(cause, SectionError):
        located = [(f"{key}.{problem.where}".strip("."), problem) for problem in cause.problems]
        return [
            unknown_setting_error(key, settings) if problem.what == UNKNOWN else relocated_error(problem, key)
            for key, problem in located
        ]
    if isinstance(cause, UsageError):
        return [relocated_error(cause, where)]
    if rule == "extra_forbidden":
        return [unknown_setting_error(key, settings)]
    if key not in settings:
        if rule == "missing":
            return [RecipeError("missing section", where=key)]
        return [RecipeError("not a table of settings", where=key or None, got=got)]
    setting = settings[key]
    if rule == "missing":
        return [RecipeError("missing setting", where=key, expected=setting.expected)]
    close = nearest(value, setting.choices) if isinstance(value, str) else None
    return [
        RecipeError(
            "unknown name" if isinstance(value, str) and setting.choices else _RULES.get(rule, "wrong kind of value"),
            where=where,
            got=got,
            expected=setting.expected,
            remedy=f"did you mean {close}?" if close else None,
        )
    ]
