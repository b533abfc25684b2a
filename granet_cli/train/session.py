"""The run of ``granet train``: a new one and its folder, or one to resume."""

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
from granet_cli.overrides import EMBEDDED, Overrides, apply_overrides, contradictions
from granet_cli.train.export_warning import warn_of_export

RUNS = Path("runs")
_SINGLE = TorchrunRank()
DEFAULT = "quickstart"
NOTHING_SAVED = "stopped before there was anything to save"


@dataclass(frozen=True)
class TrainSession:
    """A run that is ready to start.

    Attributes:
        folder: where it is written.
        announcement: what to write before it starts.
        start: trains to the end, given a device, ``watch`` and ``stop``; see ``granet.training.train``.
    """

    folder: RunFolder
    announcement: str
    start: Callable[..., Evaluation]


def new_session(
    name: str | None,
    overrides: Overrides,
    out: Path | None,
    *,
    overwrite: bool,
    download: bool,
    export_check: bool = True,
    rank: TorchrunRank = _SINGLE,
) -> TrainSession:
    """Prepare a run of recipe ``name`` with overrides, into ``out`` or a new numbered folder.

    Raises:
        UsageError: the recipe, an override or the folder is invalid.
    """
    if overwrite and out is None:
        raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name the run with --out")
    if rank.max_restarts and out is None:
        raise UsageError(
            "torchrun will restart the run, which then has to find its folder",
            where="--max-restarts",
            got=rank.max_restarts,
            remedy="name the run with --out, or leave --max-restarts out",
        )
    overridden = apply_overrides(Recipe.load(DEFAULT if name is None else name), overrides)
    recipe = overridden.recipe
    if recipe.rewind is not None and len(recipe.rewind.densities) > recipe.rewind.round == 1:
        raise UsageError(
            "this recipe is the first of several rounds of a rewind",
            where=recipe.name,
            remedy="start it with granet rewind, or resume it with granet rewind --resume DIR",
        )
    if recipe.data.directory is None and recipe.data.name in DATASETS and recipe.data.name != EMBEDDED:
        options = "--data DIR" if overrides.data is None else f"--data DIR --set data.name={recipe.data.name}"
        raise UsageError(f"the folder of dataset {recipe.data.name} is not given", remedy=f"add {options}")
    method = recipe.method.name.rpartition(":")[2]
    stem = recipe.name if method in recipe.name else f"{recipe.name}-{method}"
    leads = rank.rank == 0  # the others never touch the folder
    folder = RunFolder(out if out is not None else fresh(stem) if leads else RUNS / stem)
    headline = f"{recipe.name}: {recipe.method.name}, {recipe.model.name}, {recipe.data.name} -> {folder.path}"
    start: Callable[..., Evaluation] = partial(training.train, recipe, folder, overwrite=overwrite, download=download)
    if export_check:
        start = partial(start, before=warn_of_export)
    if out is None and leads:
        start = partial(_in_fresh, folder.path, start)
    return TrainSession(folder, "\n".join((*overridden.remarks, headline)), start)


def resumed_session(
    path: Path,
    name: str | None,
    overrides: Overrides,
    out: Path | None,
    *,
    overwrite: bool,
    download: bool,
    rank: TorchrunRank = _SINGLE,
) -> TrainSession:
    """Prepare to resume the run in ``path``.

    Raises:
        UsageError: there is no run, or overrides contradict its recipe; each such setting is listed.
        CheckpointError: its checkpoint is damaged.
    """
    for option, given in (("--out", out is not None), ("--overwrite", overwrite), ("--download", download)):
        if given:
            raise UsageError(
                "not allowed when a run is resumed", where=option, remedy="leave it out, or leave out --resume"
            )
    folder = RunFolder(path)
    if rank.rank == 0 and (name is not None or overrides.named()):
        recipe, _ = folder.open()
        contrary = contradictions(recipe, overrides, Recipe.load(name) if name is not None else None)
        if contrary:
            lines = "".join(f"\n  {line}" for line in contrary)
            raise UsageError(
                f"these settings contradict the run; leave them out, or start another run:{lines}", where=path
            )
    return TrainSession(folder, f"resuming {path}", partial(training.resume, folder, directory=overrides.data_folder()))


def fresh(stem: str) -> Path:
    """Create a new folder in ``runs``, named after ``stem`` and numbered if that exists."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip(".-") or "run"  # a name is no path
    numbered = (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if _makes(path))


def _makes(path: Path) -> bool:
    """Create a folder; return False if it exists. Of two runs that start at once only one gets True."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _in_fresh(folder: Path, start: Callable[..., Evaluation], *args: Any, **settings: Any) -> Evaluation:
    """Start a run in a folder of ``fresh``, and remove the folder again if nothing was written into it."""
    try:
        return start(*args, **settings)
    finally:
        for path in (folder, folder.parent):
            with suppress(OSError):
                path.rmdir()  # fails unless it is empty


def stopped_message(
    folder: RunFolder, position: object, flags: Mapping[str, object], *, rank: TorchrunRank = _SINGLE
) -> tuple[str, str | None]:
    """Return what to write about a run that was stopped, and the command that resumes it.

    Args:
        folder: of the run.
        position: the step that was saved, when it is known.
        flags: options that the run was started with and that are no settings of it; empty ones are left out.
        rank: of the process; of several, each was started by torchrun.
    """
    if not folder.holds_run():
        return NOTHING_SAVED, None
    command = ["granet"]
    if rank.size > 1:
        machines = rank.size // rank.local_size
        nodes = [f"--nnodes={machines}"] if machines > 1 else []
        command = ["torchrun", *nodes, f"--nproc-per-node={rank.local_size}", "-m", "granet_cli"]
    command += ["train", "--resume", str(folder.path), *spelled_out(flags)]
    reached = f" at {position}" if position is not None else ""
    return f"stopped{reached}; {folder.last} is safe. Resume with:", shlex.join(command)


def spelled_out(flags: Mapping[str, object]) -> list[str]:
    """Return flags as arguments of a command; those that are None or False are left out."""
    arguments: list[str] = []
    for flag, value in flags.items():
        arguments += [flag] if value is True else [flag, str(value)] if value else []
    return arguments
