"""Rewind points: the checkpoints kept by a run and by its ancestors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from granet.checkpoint import load_outline
from granet.errors import GranetError, UsageError
from granet.recipe import Recipe
from granet.recipe.durations import Duration
from granet.runs.folder import RunFolder

_MOST_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class RewindPoint:
    """A checkpoint that a rewind can set back to."""

    step: int
    path: Path
    recipe: Recipe
    """Of the run in whose folder it is."""


def points(checkpoint: Path, recipe: Recipe, end: int) -> list[RewindPoint]:
    """Return the rewind points before step ``end`` for ``checkpoint``, whose recipe is ``recipe``, by step.

    They are in its folder and, if it was itself rewound, in those of its ancestors that are still there unchanged. Of
    two points of one step the nearer one counts.
    """
    found: dict[int, RewindPoint] = {}
    seen: set[Path] = set()
    path: Path | None = checkpoint.absolute()
    while path is not None and path not in seen:
        seen.add(path)
        folder = RunFolder(path.parent)
        for step in folder.kept_steps():
            found.setdefault(step, RewindPoint(step=step, path=folder.kept(step), recipe=recipe))
        path, recipe = _parent(recipe)
    return [found[step] for step in sorted(found) if step < end]


def point_at(checkpoint: Path, recipe: Recipe, step: int, end: int, steps_per_epoch: int) -> RewindPoint:
    """Return the rewind point of exactly ``step``.

    Raises:
        UsageError: there is none; the error lists those that exist.
    """
    there = points(checkpoint, recipe, end)
    for point in there:
        if point.step == step:
            return point
    raise UsageError(
        "there is no rewind point at this step",
        where="--to",
        got=f"step {step} ({_epochs(step, steps_per_epoch)})",
        expected=f"one of {listed(there, steps_per_epoch)}" if there else None,
        remedy=None if there else "train with --keep-every to keep some, or rewind the learning rate: --mode lr",
    )


def listed(there: list[RewindPoint], steps_per_epoch: int) -> str:
    """Return the steps and epochs of points as text; of many, the first and the last ones."""
    texts = [f"{point.step}it ({_epochs(point.step, steps_per_epoch)})" for point in there]
    if len(texts) > _MOST_LISTED:
        half = _MOST_LISTED // 2
        texts = [*texts[:half], "...", *texts[-half:]]
    return ", ".join(texts)


def _epochs(step: int, steps_per_epoch: int) -> str:
    return f"{step / steps_per_epoch:.4g}ep"


def step_of(to: str, total: int, steps_per_epoch: int) -> int:
    """Return the step of ``to``: a duration such as "0ep" or "1000it", or a share of the training such as 0.25.

    Raises:
        UsageError: neither, or not before the end of training, which is at step ``total``.
    """
    try:
        share = float(to)
    except ValueError:
        step = Duration.parse(to).steps(steps_per_epoch)
    else:
        if not 0 <= share < 1:
            raise UsageError(
                "not a time to go back to",
                where="--to",
                got=to,
                expected="a duration with its unit, 10ep or 5000it, or a share of the training from 0 to below 1",
            )
        step = round(share * total)
    if step >= total:
        raise UsageError(
            "that is not before the end of training", where="--to", got=f"{to}, step {step}", expected=f"below {total}"
        )
    return step


def _parent(recipe: Recipe) -> tuple[Path | None, Recipe]:
    """Return the parent of a rewound run and its recipe, if the file is unchanged; else None and ``recipe``."""
    section = recipe.rewind
    if section is None:
        return None, recipe
    path = Path(section.parent)
    try:
        parent = load_outline(path)
    except GranetError:  # gone or damaged: its points are none of ours
        return None, recipe
    return (path, parent.recipe) if parent.content_hash == section.parent_hash else (None, recipe)
