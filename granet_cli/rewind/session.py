"""The rewind of ``granet rewind``: planned from its options, announced, and resumed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from granet.checkpoint import load_outline
from granet.data import Dataset
from granet.errors import UsageError
from granet.models import check_confirmed
from granet.recipe import Recipe
from granet.rewinding.plan import RewindRequest, base_recipe, plan
from granet.training import RunFolder, open_data
from granet.training.run import Run, begin
from granet_cli.overrides import check_network, gather
from granet_cli.train import session


@dataclass(frozen=True)
class Planned:
    """A planned rewind: its recipe, and the data it is trained on."""

    recipe: Recipe
    dataset: Dataset

    def begun(self, device: torch.device) -> Run:
        """Return the run of the first round at step 0, with fresh weights."""
        return begin(self.recipe, self.dataset, device)


def planned(asked: RewindRequest, *, factory: str | None) -> Planned:
    """Plan the rewind that ``asked`` describes; write nothing.

    Raises:
        UsageError, CheckpointError, ModelError, DataError: it is not possible.
    """
    outline = load_outline(asked.checkpoint)
    check_network(outline, factory)
    check_confirmed(outline.network.name, factory)
    recipe = base_recipe(asked, outline)
    dataset = open_data(recipe)
    return Planned(plan(asked, recipe, outline, dataset), dataset)


def settings(
    assignments: list[str] | None, keep_every: str | None, keep_last: int | None, data: Path | None
) -> Mapping[str, object]:
    """Return the options that are settings of a recipe.

    Raises:
        UsageError: one of them is given twice, or is no assignment.
    """
    flags = {
        "training.keep_every": keep_every,
        "training.keep_last": keep_last,
        "data.directory": None if data is None else str(data.absolute()),
    }
    return gather(flags, assignments or ()).settings


def folder(out: Path | None, recipe: Recipe, *, overwrite: bool) -> Path:
    """Return the folder of the rewind: ``out``, or a new one.

    Raises:
        UsageError: ``out`` holds a run and ``overwrite`` is not set, or it holds the checkpoint that is rewound.
    """
    assert recipe.rewind is not None  # noqa: S101  it was planned
    if out is None:
        if overwrite:
            raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name the run with --out")
        return session.fresh(f"{recipe.name}-{recipe.rewind.mode}")
    for source in (recipe.rewind.parent, recipe.rewind.point):
        if source is not None and out.exists() and Path(source).resolve().is_relative_to(out.resolve()):
            raise UsageError(
                "the folder holds the checkpoint that is rewound", where=out, got=source, remedy="choose another --out"
            )
    RunFolder(out).check_free(overwrite=overwrite)
    return out


def tidy(folder: Path) -> None:
    """Remove a folder if it is empty, and ``runs`` if that is empty then."""
    with suppress(OSError):
        folder.rmdir()  # fails unless it is empty
        if folder.parent == session.RUNS:
            folder.parent.rmdir()


def headline(recipe: Recipe, out: Path) -> str:
    """Return one line that says what is going to be done."""
    section = recipe.rewind
    assert section is not None  # noqa: S101  it was planned
    what = {
        "lr": f"learning rate set back to step {section.start:,}",
        "weights": f"weights and learning rate set back to step {section.start:,}",
        "finetune": f"fine-tuning at learning rate {section.learning_rate or 0:g}",
    }[section.mode]
    rounds = len(section.densities)
    times = f"{rounds} rounds of {section.steps:,} steps" if rounds > 1 else f"{section.steps:,} steps"
    return f"{recipe.name}: {what}, {times}, to density {section.densities[-1]:.4g} -> {out}"


def check_nothing_else(file: Path | None, given: Mapping[str, object]) -> None:
    """Check that no other option is given when a rewind is resumed.

    Raises:
        UsageError: one is; the first is named.
    """
    named = {"CKPT": file, **given}
    for option, value in named.items():
        if value not in (None, False):
            raise UsageError(
                "not allowed when a rewind is resumed",
                where=option,
                remedy="leave this out, or leave out --resume",
            )


def stopped_message(path: Path, position: object, flags: Mapping[str, object]) -> tuple[str, str | None]:
    """Return what to write about a rewind that was stopped at ``position``, and the command that resumes it."""
    if not (RunFolder(path).holds_run() or RunFolder(path).holds_rounds()):
        return session.NOTHING_SAVED, None
    reached = f" at {position}" if position is not None else ""
    command = ["granet", "rewind", "--resume", str(path), *session.spelled_out(flags)]
    return f"stopped{reached}; nothing is lost. Resume with:", shlex.join(command)
