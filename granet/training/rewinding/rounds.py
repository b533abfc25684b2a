"""Pruning and retraining, once or over and over.

One round is a run like any other, in the folder it is given. Several are one run each, in folders of their own below
it: a round prunes what the round before it ended with. Which of them are done is read off the folders, so that a
stop needs no memory of its own, as in ``granet.training.loop``.

    rewind.toml            the recipe of the first round, which says all of the others too
    round-01, round-02 ... their runs
    rounds.json            a row for each round that is done
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import torch

from granet.checkpoint import load_outline
from granet.data import Dataset
from granet.errors import UsageError
from granet.masks import active, density, size
from granet.recipe import Recipe
from granet.training.events import Event, RoundEnded, RoundRow, RoundStarted
from granet.training.folder import RunFolder, replace_text
from granet.training.loop import resume, train
from granet.training.rewinding.plan import round_of
from granet.training.state import open_data

Watch = Callable[[Event], None]

_ROUND = re.compile(r"round-\d{2,}")


class Rounds:
    """The folder of a rewind, of one round or of several."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe_file(self) -> Path:
        """The recipe of the first of several rounds."""
        return self.path / "rewind.toml"

    @property
    def table_file(self) -> Path:
        """The rows of the rounds that are done."""
        return self.path / "rounds.json"

    def holds_rounds(self) -> bool:
        """Whether several rounds were begun here."""
        return self.recipe_file.exists()

    def folder(self, number: int) -> RunFolder:
        """The run of a round."""
        return RunFolder(self.path / f"round-{number:02d}")

    def folders(self) -> list[RunFolder]:
        """The runs of all rounds that were begun, in order."""
        found = (path for path in self.path.glob("round-*") if _ROUND.fullmatch(path.name))
        return [RunFolder(path) for path in sorted(found, key=lambda path: int(path.name.removeprefix("round-")))]

    def check_free(self, *, overwrite: bool) -> None:
        """Raises UsageError when a rewind or a run is here that is not to be overwritten."""
        RunFolder(self.path).check_free(overwrite=overwrite)
        if not overwrite and (self.holds_rounds() or any(folder.holds_run() for folder in self.folders())):
            raise UsageError(
                "the folder already holds the rounds of a rewind",
                where=self.path,
                remedy=f"go on with them by --resume {self.path}, replace them with --overwrite, or choose another "
                "--out",
            )

    def clear(self) -> None:
        """Removes the run or the rounds that are here, and nothing else."""
        self.recipe_file.unlink(missing_ok=True)  # first, so that half of this is no rewind any more
        self.table_file.unlink(missing_ok=True)
        for folder in self.folders():
            folder.clear()
        RunFolder(self.path).clear()

    def create(self, recipe: Recipe) -> None:
        """Makes the folder for several rounds, without what was in it.

        Raises:
            UsageError: it cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.clear()
            replace_text(self.recipe_file, recipe.to_toml())
        except OSError as error:
            raise UsageError("cannot write here", where=self.path, got=error.strerror) from error


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
    """Prunes and retrains as ``recipe``, from ``plan``, says, into ``path``, on the ``dataset`` of the recipe.

    Returns:
        A row for every round.

    Raises:
        UsageError: the folder holds something that is not to be overwritten.
        Interrupted, TrainingError and others: as ``granet.training.train``.
    """
    assert recipe.rewind is not None  # noqa: S101  it came from ``plan``
    rounds = Rounds(path)
    rounds.check_free(overwrite=overwrite)
    if len(recipe.rewind.densities) == 1:
        if overwrite:
            rounds.clear()
        train(recipe, RunFolder(path), device, dataset=dataset, overwrite=overwrite, watch=watch, stop=stop)
        return [row(RunFolder(path))]
    with RunFolder(path).claimed():
        rounds.check_free(overwrite=overwrite)
        rounds.create(recipe)
        return list(_rounds(rounds, device, lambda _: dataset, watch, stop))


def go_on(
    path: Path, device: torch.device, *, directory: Path | None = None, watch: Watch, stop: Callable[[], bool]
) -> list[RoundRow]:
    """Goes on with the rewind in ``path`` as if it had never stopped; ``directory`` is where the data are now.

    Raises:
        UsageError: there is none.
        Otherwise as ``rewind``.
    """
    rounds = Rounds(path)
    if rounds.holds_rounds():
        with RunFolder(path).claimed():
            opened = cache(partial(open_data, directory=directory))
            return list(_rounds(rounds, device, opened, watch, stop))
    folder = RunFolder(path)
    recipe = folder.open()[0]
    if recipe.rewind is None:
        raise UsageError(
            "this is a run, but not a rewound one", where=path, remedy=f"go on with it by granet train --resume {path}"
        )
    resume(folder, device, directory=directory, watch=watch, stop=stop)
    return [row(folder)]


def _rounds(
    rounds: Rounds, device: torch.device, data: Callable[[Recipe], Dataset], watch: Watch, stop: Callable[[], bool]
) -> Iterator[RoundRow]:
    """Brings every round to its end, in order, and writes the table as it grows."""
    first = Recipe.load(rounds.recipe_file)
    if first.rewind is None:
        raise UsageError("the recipe says nothing of rounds", where=rounds.recipe_file)
    total, rows = len(first.rewind.densities), []
    for number in range(1, total + 1):
        folder = rounds.folder(number)
        if not _done(folder):
            watch(
                RoundStarted(round=number, rounds=total, density=first.rewind.densities[number - 1], folder=folder.path)
            )
            if folder.holds_run():
                resume(folder, device, dataset=data(first), watch=watch, stop=stop)
            else:
                recipe = round_of(first, number, None if number == 1 else rounds.folder(number - 1).last)
                train(recipe, folder, device, dataset=data(first), watch=watch, stop=stop)
        rows.append(row(folder))
        replace_text(rounds.table_file, json.dumps([asdict(entry) for entry in rows], indent=1) + "\n")
        watch(RoundEnded(row=rows[-1], rounds=total))
        yield rows[-1]


def _done(folder: RunFolder) -> bool:
    return folder.last.exists() and "test" in load_outline(folder.last).metrics


def row(folder: RunFolder) -> RoundRow:
    """What the finished run in ``folder`` came to."""
    last = load_outline(folder.last)
    assert last.recipe.rewind is not None  # noqa: S101  only rounds are asked about
    return RoundRow(
        round=last.recipe.rewind.round,
        folder=folder.path.name,
        density=density(last.masks),
        active=sum(active(last.masks).values()),
        parameters=size(last.masks),
        step=last.step,
        validation_accuracy=last.metrics["best"]["accuracy"],
        test_accuracy=last.metrics["test"]["accuracy"],
        bytes=folder.best.stat().st_size,
    )
