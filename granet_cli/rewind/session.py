"""The rewind that ``granet rewind`` is about: planned from its options, announced, and taken leave of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from granet.checkpoint import load_outline
from granet.data import Dataset
from granet.errors import ModelError, UsageError
from granet.models import is_factory
from granet.recipe import Recipe
from granet.rewinding.plan import RewindRequest, course, plan
from granet.training import RunFolder, open_data
from granet.training.run import Run, begin
from granet_cli.choices import check_network, gather
from granet_cli.train import session


@dataclass(frozen=True)
class Planned:
    """A recipe that rewinds, and the data it is trained on."""

    recipe: Recipe
    dataset: Dataset

    def begun(self, device: torch.device) -> Run:
        """The run that the first round is, at step 0 and with fresh weights: to look at."""
        return begin(self.recipe, self.dataset, device)


def planned(asked: RewindRequest, *, factory: str | None) -> Planned:
    """What ``asked`` comes to; nothing is written.

    Raises:
        UsageError, CheckpointError, ModelError, DataError: it cannot be done.
    """
    outline = load_outline(asked.checkpoint)
    check_network(outline, factory)
    name = outline.network.name
    if is_factory(name) and factory != name:
        raise ModelError(
            "the checkpoint names code to run",
            where=f"network {name}",
            remedy=f"if you trust it, confirm with --model {name}",
        )
    recipe = course(asked, outline)
    dataset = open_data(recipe)
    return Planned(plan(asked, recipe, outline, dataset), dataset)


def settings(
    assignments: list[str] | None, keep_every: str | None, keep_last: int | None, data: Path | None
) -> Mapping[str, object]:
    """The settings of a recipe among the options.

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
    """Where the rewind goes: ``out``, or a new folder.

    Raises:
        UsageError: something is in ``out`` that is not to be overwritten, or it is where the checkpoint lies.
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
    """Removes a folder that nothing was written into, and ``runs`` if that was all there was in it."""
    with suppress(OSError):
        folder.rmdir()  # fails unless it is empty
        if folder.parent == session.RUNS:
            folder.parent.rmdir()


def headline(recipe: Recipe, out: Path) -> str:
    """One line that says what is going to be done."""
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
    """Refuses what a rewind that goes on has no use for.

    Raises:
        UsageError: naming the first of it.
    """
    named = {"CKPT": file, **given}
    for option, value in named.items():
        if value not in (None, False):
            raise UsageError(
                "a rewind that goes on has all its settings",
                where=option,
                remedy="leave this out, or leave out --resume",
            )


def goodbye(path: Path, where: object, *, device: str, data: Path | None, json: bool) -> tuple[str, str | None]:
    """What to say of a rewind that was stopped, and the command that goes on with it."""
    if not (RunFolder(path).holds_run() or RunFolder(path).holds_rounds()):
        return "stopped before there was anything to save", None
    command = ["granet", "rewind", "--resume", str(path)]
    command += ["--device", device] if device != "auto" else []
    command += ["--data", str(data)] if data is not None else []
    command += ["--json"] if json else []
    at = f" at {where}" if where is not None else ""
    return f"stopped{at}; nothing is lost. Go on with:", shlex.join(command)
