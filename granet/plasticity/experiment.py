"""Measures the cells of a grid that are missing, in order, and writes each as soon as it is done.

Which cells are done is read off the folders of results, so that a stop needs no memory of its own. A cell that was
stopped in the middle begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from granet.plasticity import results
from granet.plasticity.cell import CellProgressed, baseline, measure
from granet.plasticity.grid import FOLDER, Grid, Job
from granet.plasticity.report import PlasticityReport, summarise
from granet.plasticity.results import Cell, CellKey
from granet.runs.folder import RunFolder
from granet.training.run import open_data


@dataclass(frozen=True, kw_only=True)
class GridStarted:
    """Results were read; ``done`` of ``total`` cells are there already."""

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
    """A cell is done and written."""

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
) -> PlasticityReport:
    """Measure the missing cells of ``grid``, and return the curves of all.

    Args:
        out: the folder of results; the folder ``plasticity`` of each run when None.
        directory: where the data are now, if they moved.
        factory: confirms the user's own network; see ``models.from_checkpoint``.
        watch: called with every event.
        stop: asked before the first step and after every one.

    Raises:
        Interrupted: ``stop`` returned True; finished cells are kept.
        UsageError: results of other settings, or another process is at work there.
        CheckpointError, DataError, ModelError: see ``cell.measure`` and ``open_data``.
    """
    folders = {source.run: source.run / FOLDER if out is None else out for source in grid.sources}
    with ExitStack() as claimed:
        for folder in dict.fromkeys(folders.values()):
            claimed.enter_context(RunFolder(folder).claimed())
        known: dict[CellKey, Cell] = {}
        for folder in dict.fromkeys(folders.values()):
            for cell in results.read(folder):
                grid.settings.check(cell, folder)
                known[cell.key] = cell
        missing = [job for job in grid.jobs if job.key not in known]
        total = len(grid.jobs)
        done = total - len(missing)
        watch(GridStarted(done=done, total=total))
        numbered = [CellStarted(job=job, number=n, total=total) for n, job in enumerate(missing, done + 1)]
        for path, of_run in groupby(numbered, key=lambda start: start.job.source.run):
            for start, cell in _measured(list(of_run), device, directory, factory, watch, stop):
                results.write(folders[path], cell)
                known[cell.key] = cell
                watch(CellEnded(cell=cell, number=start.number, total=total))
        cells = [known[job.key] for job in grid.jobs]
        return summarise(cells, map(str, grid.runs), grid.sources[0].recipe, grid.drops)


def _measured(
    starts: Sequence[CellStarted],
    device: torch.device,
    directory: Path | None,
    factory: str | None,
    watch: Callable[[Event], None],
    stop: Callable[[], bool],
) -> Iterator[tuple[CellStarted, Cell]]:
    """Measure cells of one run, whose dataset is opened once, and each checkpoint before pruning once.

    The validation images depend on the seed of a run, so that each has its own dataset.
    """
    dataset = open_data(starts[0].job.recipe, directory=directory)
    for _, of_source in groupby(starts, key=lambda start: start.job.source.hash):
        before = None
        for start in of_source:
            watch(start)
            if before is None:
                before = baseline(start.job, dataset, device, factory=factory)
            yield start, measure(start.job, before, dataset, device, watch=watch, stop=stop)
