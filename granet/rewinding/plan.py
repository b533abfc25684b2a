"""The recipe of a rewind, from the request of a user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from granet.allocation import total_budget
from granet.checkpoint import Checkpoint, content_hash, load_outline
from granet.data import Dataset
from granet.errors import CheckpointError, UsageError
from granet.masks.mapping import density
from granet.recipe import Recipe, build_method
from granet.recipe.learning_rate import learning_rate
from granet.rewinding.points import RewindPoint, listed, point_at, points, step_of
from granet.rewinding.start_state import Scope

Mode = Literal["lr", "weights", "finetune"]

MOST_ROUNDS = 1000

_INCIDENTAL = ("description", "data.directory", "data.follow_links", "data.workers", "data.residency",
               "training.precision", "training.compile", "training.deterministic", "training.keep",
               "training.save")  # fmt: skip
"""Settings that two parts of one run may differ in."""

SETTABLE = ("method.", "data.directory", "data.follow_links", "data.workers", "data.residency",
            "training.precision", "training.compile", "training.deterministic", "training.keep_every",
            "training.keep_last", "training.save_every")  # fmt: skip
"""Settings that a rewind may change: how the topology moves, and what leaves the course of training alone."""


@dataclass(frozen=True, kw_only=True)
class RewindRequest:
    """The request for a rewind; see ``granet rewind --help``.

    Attributes:
        checkpoint: the trained network.
        mode: what is set back.
        to: the time to go back to, "10ep", "5000it" or a share of the training; None is its start. It also decides
            how long a fine-tuning takes: as long as a rewind to that time would.
        density: at the end, None for that which ``rounds`` and ``rate`` lead to, or else the present one.
        rounds: over how many rounds it gets there.
        rate: the share of the weights active before a round that the round prunes.
        scope: whether weights are ranked over all layers, or in each.
        regrow: whether a share of the weights keeps being swapped, as in GraNet, instead of a fixed mask.
        learning_rate: of a fine-tuning; None is the last one of the training.
        recipe: how weights are to be trained of which that is not known, since they were imported.
        settings: others to change, by dotted key; see ``SETTABLE``.
    """

    checkpoint: Path
    mode: Mode
    to: str | None = None
    density: float | None = None
    rounds: int | None = None
    rate: float | None = None
    scope: Scope = "global"
    regrow: bool = False
    learning_rate: float | None = None
    recipe: Recipe | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


def base_recipe(request: RewindRequest, outline: Checkpoint) -> Recipe:
    """Return the recipe that the network was trained by, with the settings of the request and without a rewind.

    Raises:
        UsageError: a recipe for weights that have their own, none for weights that need one, or settings that a
            rewind does not change.
        RecipeError: settings that do not fit.
    """
    imported = "steps_per_epoch" not in outline.progress
    if request.recipe is not None and not imported:
        raise UsageError(
            "the checkpoint has a recipe of its own",
            where="--recipe",
            remedy="leave it out; it is for imported weights",
        )
    if request.recipe is None and imported and request.mode != "finetune":
        raise UsageError(
            "how these weights were trained is not known, so that there is no clock to set back",
            where=request.checkpoint,
            remedy="say how to train them with --recipe, or fine-tune them with --mode finetune",
        )
    allowed = SETTABLE if not imported else ("",)
    for key in request.settings:
        if not key.startswith(allowed):
            raise UsageError(
                "a rewind cannot change this setting",
                where="--set",
                got=key,
                expected=f"one of {', '.join(name + '*' if name.endswith('.') else name for name in allowed)}",
            )
    if request.recipe is not None and request.recipe.rewind is not None:
        raise UsageError("the recipe is itself that of a rewind", where="--recipe", got=request.recipe.name)
    if "method.dense" in request.settings and density(outline.masks) < 1.0:
        raise UsageError(
            "which layers are masked is settled once a network is pruned",
            where="--set",
            got="method.dense",
            remedy="leave it out; it is for dense networks",
        )
    recipe = outline.recipe if request.recipe is None else request.recipe.override({"model.name": outline.network.name})
    fresh = recipe.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    fresh.pop("rewind", None)
    recipe = Recipe.from_dict(fresh, where=f"recipe {recipe.name}")
    own = ("training.keep_every", "training.keep_last") if request.recipe is None else ()
    rest = {key: None for key in own if key not in request.settings}  # the training's own rewind points are there
    varied, settings = _method(request, outline, recipe)
    return varied.override({**settings, **rest})


def _method(request: RewindRequest, outline: Checkpoint, recipe: Recipe) -> tuple[Recipe, dict[str, object]]:
    """Return the recipe with the method of the retraining, and the settings other than those of the method.

    A fixed mask is the method ``static``; GraNet's swap at a density that stays is the method ``rigl-itop``, which
    takes over interval, drop fraction and whatever else the training had.
    """
    settings = dict(request.settings)
    name = "rigl-itop" if request.regrow else "static"
    own: dict[str, Any] = {"density": density(outline.masks)}
    for key in [key for key in settings if key.startswith("method.")]:
        value = settings.pop(key)
        leaf = key.removeprefix("method.")
        if leaf in ("name", "density") or key not in Recipe.settings():
            raise UsageError(
                "not a setting of a rewind", where="--set", got=key, remedy="see --density and --regrow, or --help"
            )
        own[leaf] = Recipe.settings()[key].parse(value) if isinstance(value, str) else value
    varied, _ = recipe.with_method(name, **own)
    return varied, settings


def plan(request: RewindRequest, recipe: Recipe, outline: Checkpoint, dataset: Dataset) -> Recipe:
    """Return the recipe of the first round; those of later ones differ in their parent and their number only.

    ``recipe`` is from ``base_recipe``, ``outline`` is the checkpoint, with or without values.

    Raises:
        UsageError: no rewind point at that time, densities or rates that cannot be, a time past the end.
        CheckpointError: the data are not those of the checkpoint.
    """
    steps_per_epoch = len(dataset.train) // recipe.training.batch_size
    _check_data(request, outline, dataset, steps_per_epoch)
    rewound_before = outline.recipe.rewind if request.recipe is None else None
    timed = recipe if rewound_before is None else with_rewind(recipe, rewound_before.model_dump(mode="json"))
    total = recipe.total_steps(steps_per_epoch)
    if request.mode == "weights" and request.to is None:
        there = points(request.checkpoint, outline.recipe, total)
        raise UsageError(
            "the time to rewind the weights to is not said",
            where="--to",
            expected=f"one of {listed(there, steps_per_epoch)}" if there else None,
            remedy=None if there else "train with --keep-every to keep rewind points, or use --mode lr",
        )
    if request.learning_rate is not None and not 0 < request.learning_rate <= 1000:
        raise UsageError("out of range", where="--lr", got=request.learning_rate, expected="above 0 and at most 1000")
    to = step_of("0it" if request.to is None else request.to, total, steps_per_epoch)
    section: dict[str, Any] = {
        "mode": request.mode,
        "parent": str(request.checkpoint.absolute()),
        "parent_hash": outline.content_hash,
        "start": to,
        "steps": total - to,
        "densities": densities(density(outline.masks), request.density, request.rounds, request.rate),
        "scope": request.scope,
    }
    for target in section["densities"]:
        total_budget({name: mask.shape for name, mask in outline.masks.items()}, target)
    if request.mode == "weights":
        point = point_at(request.checkpoint, outline.recipe, to, total, steps_per_epoch)
        point_hash = _check_point(point, outline)
        section |= {"point": str(point.path.absolute()), "point_hash": point_hash}
    if request.mode == "finetune":
        last = timed.total_steps(steps_per_epoch) - 1
        rate = learning_rate(timed, last, steps_per_epoch) if request.learning_rate is None else request.learning_rate
        if rate <= 0:
            raise UsageError(
                "the training ended at a learning rate of 0", where=request.checkpoint, remedy="give one with --lr"
            )
        section |= {"start": outline.step, "learning_rate": rate}
    elif request.learning_rate is not None:
        raise UsageError(
            f"the {request.mode} mode follows the schedule of the training",
            where="--lr",
            remedy="leave it out, or use --mode finetune",
        )
    planned = with_rewind(recipe, section)
    build_method(planned, steps_per_epoch)  # durations that do not fit are reported before anything is written
    return planned


def round_of(first: Recipe, number: int, parent: Path | None = None) -> Recipe:
    """Return the recipe of round ``number``: that of the first round with another checkpoint to prune.

    Raises:
        FileError: ``parent`` is missing.
        CheckpointError: ``parent`` is damaged.
    """
    assert first.rewind is not None  # noqa: S101  it came from ``plan``
    section = {**first.rewind.model_dump(mode="json", exclude_none=True), "round": number}
    if parent is not None:
        section |= {"parent": str(parent.absolute()), "parent_hash": content_hash(parent)}
    if first.rewind.mode == "finetune":
        section["start"] = first.rewind.start + (number - 1) * first.rewind.steps
    return with_rewind(first, section)


def densities(present: float, target: float | None, rounds: int | None, rate: float | None) -> list[float]:
    """Return the density after each round; every round prunes the same share of the active weights.

    With ``rounds`` the rate follows, with ``rate`` the number of rounds, the last of which then prunes less. With
    both the density at the end follows. With neither there is one round, to ``target`` or without pruning.

    Raises:
        UsageError: numbers out of range, or too many or too few of them.
    """
    if rate is not None and not 0 < rate < 1:
        raise UsageError("not a share to prune in a round", where="--rate", got=rate, expected="above 0 and below 1")
    if rounds is not None and not 1 <= rounds <= MOST_ROUNDS:
        raise UsageError("out of range", where="--rounds", got=rounds, expected=f"1 to {MOST_ROUNDS}")
    if target is not None and not 0 < target <= 1:
        raise UsageError("not a density", where="--density", got=target, expected="above 0 and at most 1")
    if target is not None and target > present:
        raise UsageError(
            "the checkpoint is sparser than that",
            where="--density",
            got=f"{target:g}",
            expected=f"at most {present:.6g}",
            remedy="pruning only takes away",
        )
    if target is not None and rounds is not None and rate is not None:
        raise UsageError("give at most two of them", where="--density, --rounds, --rate", remedy="leave one out")
    if rounds is None and rate is None:
        return [present if target is None else target]
    if rounds is not None and rate is not None:
        return [present * (1 - rate) ** number for number in range(1, rounds + 1)]
    if target is None:
        raise UsageError(
            "the final density is not determined",
            where="--rounds" if rate is None else "--rate",
            remedy="add --density, or both --rounds and --rate",
        )
    if rounds is None:
        assert rate is not None  # noqa: S101  one of them is there
        # Counts are whole numbers, so that the present density is not quite a round one: a round that would prune
        # less than a hundredth of the others is none.
        needed = math.log(target / present) / math.log1p(-rate) - 0.01
        if needed > MOST_ROUNDS:
            raise UsageError(
                "too many rounds",
                where="--rate",
                got=f"{rate:g}, {needed:.3g} rounds",
                expected=f"at most {MOST_ROUNDS}",
            )
        rounds = max(math.ceil(needed), 1)
        return [*(present * (1 - rate) ** number for number in range(1, rounds)), target]
    return [*(present * (target / present) ** (number / rounds) for number in range(1, rounds)), target]


def with_rewind(recipe: Recipe, section: Mapping[str, Any]) -> Recipe:
    """Return the recipe with this section ``rewind``, and with the density of its round."""
    data = recipe.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    present = {key: value for key, value in section.items() if value is not None}
    method = {**data["method"], "density": present["densities"][present.get("round", 1) - 1]}
    return Recipe.from_dict({**data, "method": method, "rewind": present}, where=f"recipe {recipe.name}")


def _check_data(request: RewindRequest, outline: Checkpoint, dataset: Dataset, steps_per_epoch: int) -> None:
    network, imported = outline.network, "steps_per_epoch" not in outline.progress
    pairs: list[tuple[str, object, object]] = [
        ("channels", dataset.channels, network.in_channels),
        ("image size", dataset.image_size, network.image_size),
        ("mean", tuple(dataset.mean), tuple(network.mean)),
        ("std", tuple(dataset.std), tuple(network.std)),
    ]
    if imported:  # which have the number of their classes for sure, and perhaps not the names
        pairs.append(("number of classes", len(dataset.classes), len(network.classes)))
    else:
        pairs.append(("classes", dataset.classes, network.classes))
        pairs.append(("steps per epoch", steps_per_epoch, outline.progress["steps_per_epoch"]))
    for what, mine, theirs in pairs:
        if mine != theirs:
            raise CheckpointError(
                "the data are not of the kind that the network was trained on",
                where=f"{what} of {dataset.name}",
                got=mine,
                expected=f"{theirs}, as {request.checkpoint} has it",
            )


def _check_point(point: RewindPoint, outline: Checkpoint) -> str:
    """Check that ``point`` is of the training of ``outline``, and return its content hash.

    Raises:
        CheckpointError: it is of another run or of another step.
    """
    found = load_outline(point.path)
    other = [key for key, _, _ in found.recipe.differences(point.recipe) if not key.startswith(_INCIDENTAL)]
    shapes = [{name: tuple(weight.shape) for name, weight in each.weights.items()} for each in (found, outline)]
    data = [{key: each.progress.get(key) for key in ("steps_per_epoch", "examples")} for each in (found, outline)]
    if shapes[0] != shapes[1] or data[0] != data[1] or other:
        raise CheckpointError(
            "the rewind point is of another run",
            where=point.path,
            got=f"{other[0]} differs" if other else "another network or other data",
            remedy="keep one run to a folder",
        )
    if found.step != point.step:
        raise CheckpointError(
            "the rewind point is not of the step in its name", where=point.path, got=found.step, expected=point.step
        )
    if outline.recipe.rewind is None and point.step > outline.step:
        raise UsageError(
            "the rewind point is later than the checkpoint",
            where="--to",
            got=point.step,
            expected=f"at most {outline.step}",
        )
    return found.content_hash
