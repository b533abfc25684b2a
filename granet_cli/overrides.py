"""Recipe overrides from the command line: flags and ``--set`` assignments, and the recipe that results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from granet.data import DATASETS, SIZED
from granet.errors import UsageError, nearest
from granet.methods.registry import confirm, is_own
from granet.recipe import Recipe

if TYPE_CHECKING:
    from granet.checkpoint import Checkpoint

EMBEDDED = "fashion-mnist-subset"
"""The dataset that comes with granet and needs no folder."""


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Overrides of a recipe.

    Attributes:
        method: another method, from ``--method``.
        epochs: another length, from ``--epochs``.
        data: the value of ``--data``, a dataset or a folder.
        settings: the other flags and every ``--set``, by dotted key.
    """

    method: str | None = None
    epochs: int | None = None
    data: str | None = None
    settings: Mapping[str, object]

    def named(self) -> set[str]:
        """Return the dotted keys of all overrides, except that of the data folder."""
        named = {"method.name": self.method, "training.epochs": self.epochs}
        if self.data is not None and directory(self.data) is None:
            named["data.name"] = self.data
        return {*self.settings, *(key for key, value in named.items() if value is not None)} - {"data.directory"}

    def data_folder(self) -> Path | None:
        """Return the absolute path of the data folder, or None when none is given.

        Raises:
            UsageError: two folders are given, or a path that is no folder.
        """
        folder, other = None if self.data is None else directory(self.data), self.settings.get("data.directory")
        if folder is not None and other is not None:
            raise _twice(self.data, "data.directory", other)
        return _absolute(str(Recipe.settings()["data.directory"].parse(str(other)))) if other else folder


@dataclass(frozen=True)
class OverriddenRecipe:
    """A recipe with overrides applied, and remarks for the user about side effects."""

    recipe: Recipe
    remarks: tuple[str, ...]


def gather(
    flags: Mapping[str, object],
    assignments: Sequence[str],
    *,
    method: str | None = None,
    epochs: int | None = None,
    data: str | None = None,
) -> Overrides:
    """Combine flags (None: not given) and ``section.key=value`` assignments into overrides.

    Raises:
        UsageError: an assignment without "=", a setting given twice, or a method of the user's that is not there.
    """
    if method is not None and is_own(method):
        confirm(method)  # who names it on the command line wants it to run
    settings = {key: value for key, value in flags.items() if value is not None}
    elsewhere = {"method.name": method, "training.epochs": epochs}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(
                "not an assignment",
                where="--set",
                got=repr(assignment),
                expected="section.key=value, such as --set optimizer.momentum=0.95",
            )
        if key in settings or elsewhere.get(key) is not None:
            raise UsageError("a setting is given twice", where="--set", got=key)
        settings[key] = value.strip()
    return Overrides(method=method, epochs=epochs, data=data, settings=settings)


def apply_overrides(recipe: Recipe, overrides: Overrides) -> OverriddenRecipe:
    """Apply overrides to a recipe.

    The method is exchanged first, then the training is stretched to another length, then single settings are set,
    so that a setting given by name keeps its value.

    Raises:
        UsageError: an override is invalid or does not fit the recipe.
    """
    settings, remarks = dict(overrides.settings), []
    if "model.weights" in settings:
        settings.setdefault("model.weights_hash", None)  # another file than the recipe's
    if overrides.data is not None:
        settings = {**data_settings(overrides.data, recipe.data.name, settings), **settings}
    if overrides.method is not None and overrides.method != recipe.method.name:
        given = {
            key.removeprefix("method."): recipe.settings()[key].parse(value) if isinstance(value, str) else value
            for key, value in settings.items()
            if key.startswith("method.") and key in recipe.settings()  # ``override`` reports the others
        }
        recipe, left_out = recipe.with_method(overrides.method, **given)
        if left_out:
            names = ", ".join(left_out)
            remarks.append(f"left out, because method {overrides.method} does not use them: {names}")
    if overrides.epochs is not None:
        longer = recipe.stretched(overrides.epochs)
        moved = [f"{key} {_format_value(old)} -> {_format_value(new)}" for key, new, old in longer.differences(recipe)]
        if len(moved) > 1:
            remarks.append(f"the recipe is stretched: {', '.join(moved)}")
        recipe = longer
    recipe = recipe.override(settings)
    if recipe.data.directory is not None:  # a run can be resumed from any working directory
        recipe = recipe.override({"data.directory": str(_absolute(recipe.data.directory))})
    if recipe.model.weights is not None:
        recipe = recipe.override({"model.weights": str(_absolute(recipe.model.weights))})
    return OverriddenRecipe(recipe, tuple(remarks))


def data_settings(data: str, present: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that ``--data`` stands for, given the recipe's ``present`` dataset and other ``settings``.

    The name of a dataset selects that dataset and clears the recipe's folder. Anything else is a folder: that of the
    recipe's dataset, or an image folder where the recipe's dataset is the embedded one.

    Raises:
        UsageError: neither a dataset nor a folder, or a setting that is given twice.
    """
    folder = directory(data)
    for key in ("data.name",) if folder is None else ("data.directory",):
        if key in settings:
            raise _twice(data, key, settings[key])
    if folder is None:
        return {"data.name": data, **({} if data == present else {"data.directory": None})}
    inferred = {"data.name": "image-folder"} if present == EMBEDDED and "data.name" not in settings else {}
    return {**inferred, "data.directory": str(folder)}


def directory(data: str) -> Path | None:
    """Return the absolute path of the folder that ``--data`` names, or None when it names a dataset.

    Raises:
        UsageError: there is neither a dataset nor a folder of that name.
    """
    if data in DATASETS:
        return None
    path = _absolute(data)
    if path.exists() and not path.is_dir():
        raise UsageError("not a folder", where="--data", got=data, expected="a dataset or the folder that holds it")
    if not path.exists() and "/" not in data:
        close = nearest(data, DATASETS)
        raise UsageError(
            "neither a dataset nor a folder",
            where="--data",
            got=repr(data),
            expected=f"a folder or one of {', '.join(DATASETS)}",
            remedy=f"did you mean {close!r}?" if close else f"for a folder that does not exist yet, write ./{data}",
        )
    return path


def evaluated_on(checkpoint: Checkpoint, data: str | None, *, follow_links: bool = False) -> Recipe:
    """Return the recipe of a checkpoint with the data to evaluate on: its own, or those that ``--data`` names.

    ``follow_links`` allows links in them, as ``data.follow_links`` does.

    Raises:
        UsageError: ``--data`` names neither a dataset nor a folder.
    """
    recipe = checkpoint.recipe
    if data is not None:
        recipe = recipe.override(data_settings(data, recipe.data.name, {}))
    if follow_links:
        recipe = recipe.override({"data.follow_links": True})
    if recipe.data.name not in SIZED:
        return recipe.override({"data.image_size": None})
    return recipe.override({"data.image_size": checkpoint.network.image_size})


def check_network(checkpoint: Checkpoint, name: str | None) -> None:
    """Check that ``--model``, if given, names the network of the checkpoint.

    Raises:
        UsageError: it names another one.
    """
    network = checkpoint.network.name
    if name not in (None, network):
        raise UsageError("the checkpoint holds another network", where="--model", got=name, expected=network)


def contradictions(run: Recipe, overrides: Overrides, base: Recipe | None) -> list[str]:
    """Describe each override that contradicts the recipe of a run to be resumed.

    Args:
        run: the recipe of the run.
        overrides: the overrides; only these settings are compared.
        base: a recipe given as a whole; then all settings are compared, except the data folder.
    """
    asked = apply_overrides(run if base is None else base, overrides).recipe
    return [
        f"{key}: asked for {_format_value(mine)}, the run has {_format_value(theirs)}"
        for key, mine, theirs in asked.differences(run)
        if key in overrides.named()
        or (base is not None and key not in ("data.directory", "data.follow_links", "description"))
    ]


def _twice(data: object, key: str, value: object) -> UsageError:
    return UsageError("a setting is given twice", where="--data", got=f"{data} and --set {key}={value}")


def _format_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111  unlike Path's it never fails
