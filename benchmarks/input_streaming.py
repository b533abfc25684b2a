"""Batches from image files against what Pillow alone can decode: workers should do nothing else.

    python -m benchmarks.input_streaming [--works photographs 256 32] [--rounds 9] [--workers 1 2] [--json FILE]
                                         [--data FOLDER --side 32]

The floor is a bare loop on one core. "Pillow decodes" opens and decodes each file; "and looks" also cuts out, resizes
and mirrors the same windows, which is what training asks for, and copies the pixels out. "At once" are as many such
loops as there are workers, each in a process of its own as a worker is, which is what the machine can do when all of
them are busy. Times of these and of the pipeline are multiplied by their processes: a ratio of 1 means that each is as
fast as the bare loop. On a machine that has other things to do the clock says little; the seconds that processors spent
in loops and workers are told besides, and so are those of the process that takes the batches and turns them into
floats, which has no limit, but takes its time from the workers where there is no core for it.

The pipeline starts its workers before anything is measured. An epoch of it passes over the files several times, so that
it has 144 batches at least, and beginning and end, when workers wait, count about as little as in a real one.
Processes differ by several percent in how fast they decode, for as long as they live: run it more than once.

Images are made up, as large and as slow to decode as photographs; with ``--data`` those of a folder's ``train`` are
measured too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Measurement, heading, report, save
from benchmarks.pictures import dataset_of, files_of, write_jpegs
from granet.data import Pipeline, make_pipeline
from granet.data.augment import Augmentation, CropWindow, draw_one
from granet.data.images import evaluation_view
from granet.randomness import generator

DECODES, LOOKS = "Pillow decodes", "Pillow decodes and looks"
LIMIT = "<= 1.10"


@dataclass(frozen=True)
class Work:
    """Which files, and what training sees of them."""

    name: str
    paths: list[Path]
    side: int
    augment: Augmentation
    batch: int
    passes: int


def decodes(work: Work) -> None:
    """Every image of an epoch, decoded."""
    for path in work.paths:
        with Image.open(path) as file:
            file.convert("RGB")


def looks(work: Work, windows: Sequence[CropWindow]) -> None:
    """The same, looked at through its window, as bytes."""
    for path, (top, left, height, width, flip) in zip(work.paths, windows, strict=True):
        with Image.open(path) as file:
            image = file.convert("RGB")
        if work.augment != "resized-crop-flip":
            image = evaluation_view(image, work.side)
        image = image.crop((left, top, left + width, top + height))
        if image.size != (work.side, work.side):
            image = image.resize((work.side, work.side), Image.Resampling.BILINEAR)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.asarray(image)


def measure(work: Work, device: torch.device, workers: Sequence[int], rounds: int) -> list[Measurement]:
    """Seconds of cores for a pass over the files of each, in turns: by the clock, and as far as cores were busy."""
    count = len(work.paths)
    dataset = dataset_of(files_of(work.paths * work.passes), work.side)
    windows = [window_of(work, index) for index in range(count * work.passes)]
    parts = [windows[start : start + count] for start in range(0, len(windows), count)]
    turn = 0

    def look() -> None:
        looks(work, parts[turn % work.passes])

    def stream(pipeline: Pipeline) -> None:
        for _ in pipeline.batches(0):
            pass

    candidates = {
        DECODES: _Candidate(1, lambda: decodes(work), [os.getpid()]),
        LOOKS: _Candidate(1, look, [os.getpid()]),
    }
    for number in workers:
        if number > 1:
            loops = [_Loop(work, parts[0]) for _ in range(number)]
            candidates[f"{LOOKS}, {number} at once"] = _Candidate(
                number, partial(_together, loops), [loop.process.pid for loop in loops], copies=number
            )
        pipeline = make_pipeline(
            dataset, batch_size=work.batch, device=device, seed=0, augment=work.augment, workers=number
        )
        others = set(multiprocessing.active_children())
        stream(pipeline)  # the first epoch starts the workers
        own = [child.pid for child in multiprocessing.active_children() if child not in others]
        candidates[_named(number)] = _Candidate(number, partial(stream, pipeline), own, copies=work.passes)
    clock: dict[str, list[float]] = {name: [] for name in candidates}
    busy: dict[str, list[float]] = {name: [] for name in candidates}
    taking: dict[str, list[float]] = {name: [] for name in candidates if name == LOOKS or name in map(_named, workers)}
    for turn in range(rounds + 1):  # the first does not count
        for name, candidate in candidates.items():
            begin, before, mine = time.perf_counter(), _spent(candidate.processes), time.process_time()
            candidate.run()
            if turn:
                # Loops at once look at all files each: together at as many copies of them.
                clock[name].append(candidate.cores * (time.perf_counter() - begin) / candidate.copies)
                busy[name].append((_spent(candidate.processes) - before) / candidate.copies)
                if name in taking:
                    taking[name].append((time.process_time() - mine) / candidate.copies)
    return [
        Measurement(f"{work.name}, by the clock", clock, LOOKS),
        Measurement(f"{work.name}, processor time", busy, LOOKS),
        Measurement(f"{work.name}, processor time of the process that takes the batches", taking, LOOKS),
    ]


@dataclass(frozen=True)
class _Candidate:
    """What is run, on how many cores, which processes do the work, and how often it sees every file."""

    cores: int
    run: Callable[[], None]
    processes: Sequence[int | None]
    copies: int = 1


class _Loop:
    """A bare loop in a process that is started as workers are."""

    def __init__(self, work: Work, windows: Sequence[CropWindow]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.told, theirs = context.Pipe()
        self.process = context.Process(target=_loop, args=(theirs, work, windows), daemon=True)
        self.process.start()
        theirs.close()


def _loop(told: Connection, work: Work, windows: Sequence[CropWindow]) -> None:
    with suppress(EOFError):  # at the end
        while told.recv():
            looks(work, windows)
            told.send(True)


def _together(loops: Sequence[_Loop]) -> None:
    for loop in loops:
        loop.told.send(True)
    for loop in loops:
        loop.told.recv()


def _spent(processes: Sequence[int | None]) -> float:
    """Seconds of processors that all threads of these processes have spent so far."""
    threads = (thread for process in processes for thread in Path(f"/proc/{process}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def window_of(work: Work, index: int) -> CropWindow:
    """A window as training draws them."""
    if work.augment == "resized-crop-flip":
        with Image.open(work.paths[index % len(work.paths)]) as file:
            width, height = file.size
    else:
        width = height = work.side
    return draw_one(work.augment, generator(0, "augment", 0, index)).window(height, width)


def _named(workers: int) -> str:
    return f"granet, {workers} worker{'' if workers == 1 else 's'}"


MADE_UP: dict[str, tuple[int, int, int, int, Augmentation, int]] = {
    "photographs": (1536, 500, 375, 224, "resized-crop-flip", 3),
    "256": (2048, 256, 256, 256, "crop-flip", 3),
    "32": (8192, 32, 32, 32, "crop-flip", 1),
}
"""How many files, their width and height, the side that training sees, how, and how often a file comes in an epoch."""


def works(folder: Path, names: Sequence[str], data: Path | None, side: int) -> Iterator[Work]:
    """What is measured."""
    for name in names:
        count, width, height, shown, augment, passes = MADE_UP[name]
        place = folder / f"{width}x{height}"
        place.mkdir()
        paths = write_jpegs(place, count, width, height)
        told = f"{count} photographs of {width} x {height}, {augment} to {shown}"
        yield Work(told, paths, shown, augment, 32, passes)
    if data is not None:
        paths = sorted(path for path in (data / "train").rglob("*") if path.is_file())
        random.Random(0).shuffle(paths)  # noqa: S311  no secrets here
        paths = paths[:4096]
        yield Work(f"{len(paths)} images of {data.name}, crop-flip at {side}", paths, side, "crop-flip", 128, 1)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=MADE_UP, default=list(MADE_UP))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(heading())
    measurements = []
    with tempfile.TemporaryDirectory() as folder:
        for work in works(Path(folder), arguments.works, arguments.data, arguments.side):
            by_clock, busy, taking = measure(work, device, arguments.workers, arguments.rounds)
            measurements += [by_clock, busy, taking]
            report(taking)
            for measurement in (by_clock, busy):
                report(measurement, limits=dict.fromkeys(map(_named, arguments.workers), LIMIT))
                for name in measurement.samples:
                    ratio, low, high = measurement.ratio(name, DECODES)
                    rate = len(work.paths) / measurement.median(name)
                    print(f"  {name:32} {rate:9,.0f} images/s a core; to decoding {ratio:.2f}, {low:.2f} to {high:.2f}")
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
