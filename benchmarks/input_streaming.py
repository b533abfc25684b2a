"""Batches from image files against what Pillow alone can decode: workers should do nothing else.

    python -m benchmarks.input_streaming [--rounds 9] [--workers 1 2] [--data FOLDER --side 32] [--json FILE]

The floor is a bare loop on one core. "Pillow decodes" opens and decodes each file; "and looks" also cuts out, resizes
and mirrors the same windows, which is what training asks for, and copies the pixels out. Times of the pipeline are
multiplied by its workers: a ratio of 1 means that each of them is as fast as the bare loop. On a machine that has other
things to do the clock says little; the seconds that processors spent in the loop and in the workers are told besides.
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
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Measurement, heading, report, save
from benchmarks.pictures import dataset_of, files_of, write_jpegs
from granet.data import Pipeline, make_pipeline
from granet.data.augment import Augmentation, Window, roll
from granet.data.images import whole_view
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


def decodes(work: Work) -> None:
    """Every image of an epoch, decoded."""
    for path in work.paths:
        with Image.open(path) as file:
            file.convert("RGB")


def looks(work: Work, windows: Sequence[Window]) -> None:
    """The same, looked at through its window, as bytes."""
    for path, (top, left, height, width, flip) in zip(work.paths, windows, strict=True):
        with Image.open(path) as file:
            image = file.convert("RGB")
        if work.augment != "resized-crop-flip":
            image = whole_view(image, work.side)
        image = image.crop((left, top, left + width, top + height))
        if image.size != (work.side, work.side):
            image = image.resize((work.side, work.side), Image.Resampling.BILINEAR)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.asarray(image)


def measure(work: Work, device: torch.device, workers: Sequence[int], rounds: int) -> tuple[Measurement, Measurement]:
    """Seconds of cores for an epoch of each, in turns: by the clock, and as far as the cores were busy with it."""
    dataset = dataset_of(files_of(work.paths), work.side)
    windows = [window_of(work, index) for index in range(len(work.paths))]
    epochs = iter(range(10**6))

    def stream(pipeline: Pipeline) -> None:
        for _ in pipeline.batches(next(epochs)):
            pass

    candidates: dict[str, tuple[int, Callable[[], None], Callable[[], float]]] = {
        DECODES: (1, lambda: decodes(work), time.process_time),
        LOOKS: (1, lambda: looks(work, windows), time.process_time),
    }
    for count in workers:
        pipeline = make_pipeline(
            dataset, batch_size=work.batch, device=device, seed=0, augment=work.augment, workers=count
        )
        others = set(multiprocessing.active_children())
        stream(pipeline)  # the first epoch starts the workers
        own = [child for child in multiprocessing.active_children() if child not in others]
        candidates[_named(count)] = count, partial(stream, pipeline), partial(_spent, own)
    clock: dict[str, list[float]] = {name: [] for name in candidates}
    busy: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, (cores, run, spent) in candidates.items():
            begin, before = time.perf_counter(), spent()
            run()
            if number:
                clock[name].append(cores * (time.perf_counter() - begin))
                busy[name].append(spent() - before)
    return (
        Measurement(f"{work.name}, by the clock", clock, LOOKS),
        Measurement(f"{work.name}, processor time", busy, LOOKS),
    )


def _spent(processes: Sequence[BaseProcess]) -> float:
    """Seconds of processors that other processes have spent so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user and in system mode
    return ticks / os.sysconf("SC_CLK_TCK")


def window_of(work: Work, index: int) -> Window:
    """A window as training draws them."""
    if work.augment == "resized-crop-flip":
        with Image.open(work.paths[index]) as file:
            width, height = file.size
    else:
        width = height = work.side
    return roll(work.augment, generator(0, "augment", 0, index)).window(height, width)


def _named(workers: int) -> str:
    return f"granet, {workers} worker{'' if workers == 1 else 's'}"


def works(folder: Path, data: Path | None, side: int) -> Iterator[Work]:
    """What is measured."""
    for count, width, height, shown, augment in (
        (1536, 500, 375, 224, "resized-crop-flip"),
        (2048, 256, 256, 256, "crop-flip"),
        (8192, 32, 32, 32, "crop-flip"),
    ):
        place = folder / f"{width}x{height}"
        place.mkdir()
        paths = write_jpegs(place, count, width, height)
        yield Work(f"{count} photographs of {width} x {height}, {augment} to {shown}", paths, shown, augment, 32)  # type: ignore[arg-type]
    if data is not None:
        paths = sorted(path for path in (data / "train").rglob("*") if path.is_file())
        random.Random(0).shuffle(paths)  # noqa: S311  no secrets here
        paths = paths[:4096]
        yield Work(f"{len(paths)} images of {data.name}, crop-flip at {side}", paths, side, "crop-flip", 128)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        for work in works(Path(folder), arguments.data, arguments.side):
            for measurement in measure(work, device, arguments.workers, arguments.rounds):
                measurements.append(measurement)
                report(measurement, limits=dict.fromkeys(map(_named, arguments.workers), LIMIT))
                for name in measurement.samples:
                    ratio, low, high = measurement.ratio(name, DECODES)
                    rate = len(work.paths) / measurement.median(name)
                    print(f"  {name:32} {rate:9,.0f} images/s a core; to decoding {ratio:.2f}, {low:.2f} to {high:.2f}")
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
