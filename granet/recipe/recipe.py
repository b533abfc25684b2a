"""The recipe: load, write, vary and compare it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import Field, ValidationError

from granet.errors import RecipeError, UnknownNameError
from granet.methods.registry import known_methods
from granet.recipe.durations import Duration
from granet.recipe.error_messages import combined, from_pydantic
from granet.recipe.sections import (
    DataSection,
    Line,
    MethodSection,
    ModelSection,
    Name,
    OptimizerSection,
    RewindSection,
    ScheduleSection,
    Section,
    TrainingSection,
)
from granet.recipe.setting_rules import method_settings
from granet.recipe.settings import Setting, describe

MAX_BYTES = 64 * 1024
"""The longest recipe that is read; ours have less than 2 KiB."""

MAX_DOTS = 2000
"""The most dots in a line: the TOML reader takes quadratic time over a long dotted key."""


class Recipe(Section):
    """The whole of a run as validated, immutable data.

    Made by ``load``, ``from_toml`` and ``from_dict``, which report every mistake at once in a RecipeError. Two
    recipes are equal when all their settings are.
    """

    name: Name
    """The name of the recipe."""
    description: Line = ""
    """One line for lists."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Key of all randomness: initial weights, data order, augmentation, masks."""
    model: ModelSection
    data: DataSection
    method: MethodSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    training: TrainingSection
    rewind: RewindSection | None = None

    def _problems(self) -> Iterator[RecipeError]:
        if self.rewind is not None and self.rewind.round <= len(self.rewind.densities):
            if self.method.name not in ("static", "rigl-itop"):
                yield RecipeError(
                    "a rewound run keeps its density",
                    where="method.name",
                    got=self.method.name,
                    expected="static or rigl-itop",
                )
            elif self.method.density != self.rewind.density:
                yield RecipeError(
                    "not the density that the run is rewound to",
                    where="method.density",
                    got=self.method.density,
                    expected=self.rewind.density,
                    remedy="use granet rewind",
                )
        final, initial = self.schedule.final_learning_rate, self.optimizer.learning_rate
        if final > initial:
            yield RecipeError(
                "the learning rate cannot end above its start",
                where="schedule.final_learning_rate",
                got=final,
                expected=f"at most optimizer.learning_rate, {initial}",
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the recipes that come with granet, sorted."""
        return tuple(sorted(path.name.removesuffix(".toml") for path in _catalog()))

    @classmethod
    def settings(cls) -> Mapping[str, Setting]:
        """Everything that can be set, described, by dotted key. How a run was rewound is not for setting."""
        return {key: setting for key, setting in _settings().items() if not key.startswith("rewind.")}

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Load a recipe of the catalog by its name, or one of your own by its path.

        A path is what contains a separator or ends in ".toml"; the working directory never hides the catalog.

        Raises:
            UnknownNameError: no such name in the catalog.
            RecipeError: a file that cannot be read, is larger than 64 KiB, or holds a mistake.
        """
        text = str(name_or_path)
        if isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml"):
            return cls.from_toml(_read(Path(name_or_path)), where=text)
        if text not in cls.names():
            raise UnknownNameError("recipe", text, cls.names())
        source = next(path for path in _catalog() if path.name == f"{text}.toml")
        return cls.from_toml(source.read_text(encoding="utf-8"), where=f"recipe {text}")

    @classmethod
    def from_toml(cls, text: str, *, where: object = "recipe") -> Self:
        """Parse a recipe; ``where`` is what messages call it.

        Raises:
            RecipeError: text that is not TOML, or settings that are wrong.
        """
        _check_size(len(text.encode(errors="replace")), where)
        for number, line in enumerate(text.splitlines(), 1):
            if line.count(".") > MAX_DOTS:
                raise RecipeError(
                    "too many dots in a line", where=f"{where}, line {number}", expected=f"at most {MAX_DOTS}"
                )
        try:
            data = tomllib.loads(text)
        except ValueError as error:  # TOMLDecodeError, or a number with more digits than Python reads
            raise RecipeError(f"not valid TOML: {str(error)[:200]}", where=where) from None
        except RecursionError:
            raise RecipeError("not valid TOML: nested too deeply", where=where) from None
        return cls.from_dict(data, where=where)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: object = "recipe") -> Self:
        """Return the recipe with these settings, as ``as_dict`` gives them.

        Raises:
            RecipeError: settings that are wrong, all of them.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise combined(from_pydantic(error, _settings()), where=where) from None

    def as_dict(self) -> dict[str, Any]:
        """Return plain, ordered data fit for JSON; settings without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def flat(self) -> dict[str, object]:
        """Return what ``as_dict`` does, by dotted key."""
        return dict(_flat(self.as_dict()))

    def to_toml(self) -> str:
        """Return the recipe as TOML: the same recipe always gives the same text, and ``from_toml`` gives it back."""
        return tomli_w.dumps(self.as_dict())

    def override(self, settings: Mapping[str, object]) -> Self:
        """Return the recipe with other values, by dotted key.

        Text is read as the command line means it: as TOML where that fits the setting, else as text. None or an
        empty text removes a setting.

        Raises:
            RecipeError: unknown keys, or a recipe that is wrong with these values.
        """
        data = self.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        known = self.settings()
        for key, value in settings.items():
            section, _, leaf = key.rpartition(".")
            # An unknown key is put where validation finds it, to be reported together with every other mistake.
            target, leaf = (data[section], leaf) if isinstance(data.get(section), dict) else (data, key)
            if key not in known:
                target[leaf] = value
            elif value is None or value == "":
                target.pop(leaf, None)
            else:
                target[leaf] = known[key].parse(value) if isinstance(value, str) else value
        return self.from_dict(data, where=f"recipe {self.name}")

    def stretched(self, epochs: int) -> Self:
        """Return the recipe over ``epochs`` epochs, with the durations of method and schedule in proportion.

        Durations in epochs are multiplied; those in iterations stay, and so do the periods of saving and keeping.

        Raises:
            RecipeError: an impossible number of epochs, or the recipe of a rewound run.
        """
        if self.rewind is not None:
            raise RecipeError("the length of a rewound run cannot be changed", where=f"recipe {self.name}")
        longer = self.override({"training.epochs": epochs})
        factor = Fraction(longer.training.epochs, self.training.epochs)
        course: dict[str, object] = {}
        schedule = {key: value for key, value in self.schedule if key in self.schedule.model_fields_set}
        for name, written in (("method", self.method.settings), ("schedule", schedule)):
            for key, value in written.items():
                if isinstance(value, Duration):
                    course[f"{name}.{key}"] = value.stretched(factor)
        course["schedule.milestones"] = tuple(time.stretched(factor) for time in self.schedule.milestones)
        return longer.override(course)

    def with_method(self, name: str, **settings: object) -> tuple[Self, tuple[str, ...]]:
        """Return the recipe with another method, and the names of the settings that were dropped.

        Settings that both methods have are kept, unless the new one refuses them together with the others (a dense
        start has no use for an allocation). ``settings`` are given to the new method at once, for those it requires.

        Raises:
            UnknownNameError: no such method.
            RecipeError: a required setting that neither the recipe nor ``settings`` has.
        """
        allowed = method_settings(name)
        whole = self.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        mine = whole["method"]
        kept = {key: value for key, value in mine.items() if key in allowed.known and key not in settings}
        dropped = [key for key in self.method.given() if key not in allowed.known and key not in settings]
        section = {"name": name, **kept, **settings}
        if not _accepted(section):
            for key in kept:
                without = {other: value for other, value in section.items() if other != key}
                if _accepted(without):
                    section = without
                    dropped.append(key)
                    break
        data = {**whole, "method": section}
        return self.from_dict(data, where=f"recipe {self.name}"), tuple(dropped)

    def total_steps(self, steps_per_epoch: int) -> int:
        """The step at which training ends: that many optimizer steps, unless a rewound run started past step 0."""
        if self.rewind is not None:
            return self.rewind.start + self.rewind.steps
        return self.training.epochs * steps_per_epoch

    def differences(self, other: Recipe) -> list[tuple[str, object, object]]:
        """Return what is set differently: dotted key, own value, the other's; None where it is not set."""
        mine, theirs = self.flat(), other.flat()
        keys = dict.fromkeys([*_settings(), *mine, *theirs])
        return [(key, mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)]


def _accepted(method: Mapping[str, object]) -> bool:
    try:
        MethodSection.model_validate(method)
    except ValidationError:
        return False
    return True


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{leaf}", inner) for leaf, inner in value.items())
        else:
            yield key, value


def _catalog() -> list[Traversable]:
    folder = resources.files("granet") / "recipes"
    return [path for path in folder.iterdir() if path.name.endswith(".toml")]


def _check_size(size: int, where: object) -> None:
    if size > MAX_BYTES:
        raise RecipeError("too large for a recipe", where=where, expected=f"at most {MAX_BYTES} bytes")


def _read(path: Path) -> str:
    try:
        if not path.is_file():  # pipes and devices are kept out too, they may never end
            raise RecipeError(
                "not a file" if path.exists() else "no such file",
                where=path,
                remedy="a recipe that comes with granet is named without separator and .toml",
            )
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        _check_size(len(content), path)
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except OSError as error:
        raise RecipeError("cannot be read", where=path, got=error.strerror) from None
    except UnicodeDecodeError:
        raise RecipeError("not UTF-8 text", where=path) from None


def _settings() -> Mapping[str, Setting]:
    return _described(tuple(known_methods()))


@cache
def _described(methods: tuple[str, ...]) -> Mapping[str, Setting]:  # noqa: ARG001  with another method, other settings
    return {setting.key: setting for setting in describe(Recipe)}
