"""The rounds of a rewind: prune and retrain, once or several times.

One round is a run like any other, in the folder it is given. Several are one run each, in folders of their own below
it: a round prunes what the round before it ended with. Which of them are done is read off the folders, so that a
stop needs no memory of its own, as in ``granet.training.trainer``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from granet.checkpoint import load_outline
from granet.data import Dataset
from granet.errors import CheckpointError, UsageError
from granet.files import atomic
from granet.masks.mapping import active, density, size
from granet.recipe import Recipe
from granet.rewinding.plan import round_of
from granet.rewinding.start_state import start_state
from granet.runs.events import RoundEnded, RoundRow, RoundStarted, Watch
from granet.runs.folder import RunFolder
from granet.training.launch import resume, train
from granet.training.run import begin, capture, open_data, restore


def rewind(
    recipe: Recipe,
    path: Path,
    device: torch.device,
    *,
    dataset: Dataset,
    overwrite: bool = False,
    watch: Watch,
    stop: Callable[[], bool],
) -> list[RoundRow]:
    """Prune and retrain as ``recipe`` says, which is from ``granet.rewinding.plan``, into ``path``, on its ``dataset``.

    Returns:
        A row for every round.

    Raises:
        UsageError: the folder holds something that is not to be overwritten.
        Interrupted, TrainingError and others: as ``granet.training.train``.
    """
    assert recipe.rewind is not None  # noqa: S101  it came from ``plan``
    folder = RunFolder(path)
    if len(recipe.rewind.densities) == 1:
        train(recipe, folder, device, dataset=dataset, overwrite=overwrite, watch=watch, stop=stop)
        return [row(folder)]
    folder.check_free(overwrite=overwrite)
    run = begin(recipe, dataset, device)  # what does not fit is reported before anything is written
    restore(run, start_state(capture(run)))
    with folder.claimed():
        folder.check_free(overwrite=overwrite)
        folder.create(recipe, rounds=True)
        return list(_rounds(folder, device, dataset, None, watch, stop))


def resume_rewind(
    path: Path, device: torch.device, *, directory: Path | None = None, watch: Watch, stop: Callable[[], bool]
) -> list[RoundRow]:
    """Resume the rewind in ``path`` as if it had never stopped; ``directory`` is where the data are now.

    Raises:
        UsageError: there is none.
        Otherwise as ``rewind``.
    """
    folder = RunFolder(path)
    if folder.rewind_file.exists():
        with folder.claimed():
            return list(_rounds(folder, device, None, directory, watch, stop))
    recipe = folder.open()[0]
    if recipe.rewind is None:
        raise UsageError(
            "this is a run, but not a rewound one", where=path, remedy=f"resume it with granet train --resume {path}"
        )
    resume(folder, device, directory=directory, watch=watch, stop=stop)
    return [row(folder)]


def _rounds(
    whole: RunFolder,
    device: torch.device,
    dataset: Dataset | None,
    directory: Path | None,
    watch: Watch,
    stop: Callable[[], bool],
) -> Iterator[RoundRow]:
    """Train every round to its end, in order, and write the table as it grows.

    The dataset is opened, from ``directory`` if given, once a round needs it.
    """
    first = Recipe.load(whole.rewind_file)
    if first.rewind is None:
        raise CheckpointError("the recipe says nothing of rounds", where=whole.rewind_file)
    total, rows = len(first.rewind.densities), []
    for number in range(1, total + 1):
        folder = whole.round_folder(number)
        recipe = round_of(first, number, None if number == 1 else whole.round_folder(number - 1).last)
        begun = folder.holds_run()
        if begun:
            _check_round(folder, recipe)
        if not (begun and _done(folder)):
            watch(
                RoundStarted(round=number, rounds=total, density=first.rewind.densities[number - 1], folder=folder.path)
            )
            dataset = open_data(first, directory=directory) if dataset is None else dataset
            if begun:
                resume(folder, device, dataset=dataset, watch=watch, stop=stop)
            else:
                train(recipe, folder, device, dataset=dataset, watch=watch, stop=stop)
        rows.append(row(folder))
        atomic.write(whole.table_file, (json.dumps([asdict(entry) for entry in rows], indent=1) + "\n").encode())
        watch(RoundEnded(row=rows[-1], rounds=total))
        yield rows[-1]


def _check_round(folder: RunFolder, expected: Recipe) -> None:
    """Raise CheckpointError if the run in ``folder`` is not the round that ``expected`` is; files may have moved."""
    found = folder.open()[0]
    moved = {"rewind.parent", "rewind.point", "data.directory", "data.follow_links"}
    other = [difference for difference in found.differences(expected) if difference[0] not in moved]
    if other:
        key, got, wanted = other[0]
        raise CheckpointError(
            f"not a round of this rewind: {key} differs",
            where=folder.path,
            got=got,
            expected=wanted,
            remedy="move the folder away to train this round again",
        )


def _done(folder: RunFolder) -> bool:
    return folder.last.exists() and "test" in load_outline(folder.last).metrics


def row(folder: RunFolder) -> RoundRow:
    """Return the density, accuracies and size of the finished run in ``folder``.

    Raises:
        CheckpointError: a checkpoint of it is gone, or is not of a rewind that came to its end.
    """
    last, best = load_outline(folder.last), load_outline(folder.best)
    try:
        return RoundRow(
            round=last.recipe.rewind.round,  # type: ignore[union-attr]
            folder=folder.path.name,
            density=density(last.masks),
            active=sum(active(last.masks).values()),
            parameters=size(last.masks),
            step=last.step,
            validation_accuracy=best.metrics["best"]["accuracy"],
            test_accuracy=last.metrics["test"]["accuracy"],
            bytes=folder.best.stat().st_size,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError("not the end of a rewind", where=folder.last, got=f"no {error}") from error
