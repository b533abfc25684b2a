"""Goes through a grid: measures the cells that lack, in order, and keeps each as soon as it is done.

Which of them are done is read off the folders of results, so that a stop needs no memory of its own. A cell that was
stopped in the middle begins again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from granet.data import Dataset
from granet.plasticity.cell import CellProgressed, baseline, measure
from granet.plasticity.curves import Cell, Plasticity, tell
from granet.plasticity.grid import FOLDER, Grid, GridSource, Job
from granet.plasticity.results import Results
from granet.runs.folder import RunFolder
from granet.training.evaluate import Evaluation
from granet.training.run import open_data


@dataclass(frozen=True, kw_only=True)
class GridStarted:
    """Results were read; so many cells are done of so many."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class CellStarted:
    """A cell begins; ``number`` is from 1."""

    job: Job
    number: int
    total: int


@dataclass(frozen=True, kw_only=True)
class CellEnded:
    """A cell is done and kept."""

    cell: Cell
    number: int
    total: int


Event = GridStarted | CellStarted | CellProgressed | CellEnded


def run(
    grid: Grid,
    device: torch.device,
    *,
    out: Path | None = None,
    directory: Path | None = None,
    factory: str | None = None,
    watch: Callable[[Event], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Plasticity:
    """Measures what lacks of ``grid``, and tells all of it.

    Args:
        grid: from ``grid.plan``.
        device: where to compute.
        out: the folder of results; the folder ``plasticity`` of each run when None.
        directory: where the data are now, when they moved.
        factory: confirms the user's own network; see ``models.from_checkpoint``.
        watch: told of every event.
        stop: asked before the first step and after every one.

    Raises:
        Interrupted: ``stop`` said so; finished cells are kept.
        UsageError: results of other settings, or another process is at work there.
        CheckpointError, DataError, ModelError: see ``cell.measure`` and ``state.open_data``.
    """
    places = {source.run: Results(source.run / FOLDER if out is None else out) for source in grid.sources}
    with ExitStack() as held:
        for folder in dict.fromkeys(results.folder for results in places.values()):
            held.enter_context(RunFolder(folder).claimed())
        known: dict[tuple[str, float, str], Cell] = {}
        for results in dict.fromkeys(places.values()):
            known |= results.read(grid.settings)
        lacking = [job for job in grid.jobs if job.key not in known]
        total, done = len(grid.jobs), len(grid.jobs) - len(lacking)
        watch(GridStarted(done=done, total=total))
        data, before = _Data(directory), _Before(device, factory)
        for number, job in enumerate(lacking, done + 1):
            watch(CellStarted(job=job, number=number, total=total))
            dataset = data.of(job)
            cell = measure(job, before.of(job, dataset), dataset, device, watch=watch, stop=stop)
            places[job.source.run].add(cell)
            known[cell.key] = cell
            watch(CellEnded(cell=cell, number=number, total=total))
        cells = [known[job.key] for job in grid.jobs]
        return tell(cells, map(str, grid.runs), grid.sources[0].recipe, grid.drops)


class _Data:
    """The dataset of the run that is at work; which images validate depends on its seed."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._open: tuple[Path, Dataset] | None = None

    def of(self, job: Job) -> Dataset:
        run = job.source.run
        if self._open is None or self._open[0] != run:
            self._open = None  # the one before goes first
            self._open = run, open_data(job.recipe, directory=self._directory)
        return self._open[1]


class _Before:
    """The accuracy of the checkpoint that is at work, measured once for all its cells."""

    def __init__(self, device: torch.device, factory: str | None) -> None:
        self._device, self._factory = device, factory
        self._known: tuple[GridSource, Evaluation] | None = None

    def of(self, job: Job, dataset: Dataset) -> Evaluation:
        if self._known is None or self._known[0] is not job.source:
            self._known = job.source, baseline(job, dataset, self._device, factory=self._factory)
        return self._known[1]
