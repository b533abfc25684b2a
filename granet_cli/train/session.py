"""The run that ``granet train`` is about: a new one and its folder, or an old one to go on with."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from granet import training
from granet.data import DATASETS
from granet.errors import UsageError
from granet.recipe import Recipe
from granet.training import Evaluation, RunFolder
from granet.training.distributed import TorchrunRank
from granet_cli.choices import EMBEDDED, Choices, contradictions, vary

RUNS = Path("runs")
_SINGLE = TorchrunRank()
DEFAULT = "quickstart"


@dataclass(frozen=True)
class TrainSession:
    """What is going to be trained.

    Attributes:
        folder: where.
        announcement: what to say before it starts.
        start: trains to the end, given a device, ``watch`` and ``stop``; see ``granet.training.train``.
    """

    folder: RunFolder
    announcement: str
    start: Callable[..., Evaluation]


def new(
    name: str | None,
    choices: Choices,
    out: Path | None,
    *,
    overwrite: bool,
    download: bool,
    rank: TorchrunRank = _SINGLE,
) -> TrainSession:
    """A run of recipe ``name`` as asked for, into ``out`` or a folder that is not there yet.

    Raises:
        UsageError: anything about the recipe or the folder that cannot be.
    """
    if overwrite and out is None:
        raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name the run with --out")
    if rank.max_restarts and out is None:
        raise UsageError(
            "torchrun is going to restart the run, which then has to find its folder",
            where="--max-restarts",
            got=rank.max_restarts,
            remedy="name the run with --out, or leave --max-restarts out",
        )
    varied = vary(Recipe.load(DEFAULT if name is None else name), choices)
    recipe = varied.recipe
    if recipe.rewind is not None and len(recipe.rewind.densities) > recipe.rewind.round == 1:
        raise UsageError(
            "this recipe is the first of several rounds of a rewind",
            where=recipe.name,
            remedy="begin them with granet rewind, or go on with granet rewind --resume DIR",
        )
    if recipe.data.directory is None and recipe.data.name in DATASETS and recipe.data.name != EMBEDDED:
        options = "--data DIR" if choices.data is None else f"--data DIR --set data.name={recipe.data.name}"
        raise UsageError(f"dataset {recipe.data.name} lies in a folder, which is not named", remedy=f"add {options}")
    method = recipe.method.name.rpartition(":")[2]
    stem = recipe.name if method in recipe.name else f"{recipe.name}-{method}"
    leads = rank.ranks.rank == 0  # the others never touch the folder
    folder = RunFolder(out if out is not None else fresh(stem) if leads else RUNS / stem)
    headline = f"{recipe.name}: {recipe.method.name}, {recipe.model.name}, {recipe.data.name} -> {folder.path}"
    start: Callable[..., Evaluation] = partial(
        training.train, recipe, folder, overwrite=overwrite, download=download, restarted=rank.restarts > 0
    )
    if out is None and leads:
        start = partial(_in_fresh, folder.path, start)
    return TrainSession(folder, "\n".join((*varied.remarks, headline)), start)


def old(
    path: Path,
    name: str | None,
    choices: Choices,
    out: Path | None,
    *,
    overwrite: bool,
    download: bool,
    rank: TorchrunRank = _SINGLE,
) -> TrainSession:
    """The run in ``path``, to go on with.

    Raises:
        UsageError: there is none, or something was asked for that it does not have; each such setting is listed.
        CheckpointError: its checkpoint is damaged.
    """
    for option, given in (("--out", out is not None), ("--overwrite", overwrite), ("--download", download)):
        if given:
            raise UsageError("a run that goes on has no use for it", where=option, remedy="leave it out, or --resume")
    folder = RunFolder(path)
    if rank.ranks.rank == 0 and (name is not None or choices.named()):
        recipe, _ = folder.open()
        contrary = contradictions(recipe, choices, Recipe.load(name) if name is not None else None)
        if contrary:
            lines = "".join(f"\n  {line}" for line in contrary)
            raise UsageError(
                f"what was asked for contradicts the run; leave it out, or begin another:{lines}", where=path
            )
    return TrainSession(folder, f"going on with {path}", partial(training.resume, folder, directory=choices.place()))


def fresh(stem: str) -> Path:
    """Makes a folder in ``runs``, called after ``stem``, that was not there before."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip(".-") or "run"  # a name is no path
    numbered = (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if _makes(path))


def _makes(path: Path) -> bool:
    """Makes a folder; False when it is there, the one test that of two runs starting at once only one passes."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _in_fresh(folder: Path, start: Callable[..., Evaluation], *args: Any, **settings: Any) -> Evaluation:
    """Starts a run in a folder of ``fresh``, which goes away again when nothing was written into it."""
    try:
        return start(*args, **settings)
    finally:
        for path in (folder, folder.parent):
            with suppress(OSError):
                path.rmdir()  # fails unless it is empty


def goodbye(
    folder: RunFolder, where: object, flags: Mapping[str, object], *, rank: TorchrunRank = _SINGLE
) -> tuple[str, str | None]:
    """What to say of a run that was stopped, and the command that goes on with it.

    Args:
        folder: of the run.
        where: how far it came, when that was saved.
        flags: options that the run was started with and that are no settings of it; empty ones are left out.
        rank: of the process; of several, each was started by torchrun.
    """
    if not folder.holds_run():
        return "stopped before there was anything to save", None
    command = ["granet"]
    if rank.ranks.size > 1:
        machines = rank.ranks.size // rank.local_size
        nodes = [f"--nnodes={machines}"] if machines > 1 else []
        command = ["torchrun", *nodes, f"--nproc-per-node={rank.local_size}", "-m", "granet_cli"]
    command += ["train", "--resume", str(folder.path)]
    for flag, value in flags.items():
        command += [flag] if value is True else [flag, str(value)] if value else []
    at = f" at {where}" if where is not None else ""
    return f"stopped{at}; {folder.last} is safe. Go on with:", shlex.join(command)
