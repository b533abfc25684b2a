"""How fast batches arrive: from data on the device, and from image files that worker processes decode.

    python -m benchmarks.input_pipeline [--rounds 7] [--json FILE]

Images are made up: 10,000 of 32 x 32 pixels in memory, and 256 JPEG files of 320 x 256, of which ImageNet's crops of
224 x 224 are taken. The resident pipeline is compared with batches that only have to be indexed, the streaming one with
itself without workers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Measurement, heading, interleaved, report, save
from exporters.bench.environment import usable_cores
from granet.data import make_pipeline
from granet.data.dataset import Arrays, Dataset, Examples, Files

RESIDENT, FILES, BATCH = 10_000, 256, 128


def resident(device: torch.device, rounds: int) -> Measurement:
    """An epoch of batches from memory on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (RESIDENT, 3, 32, 32), dtype=torch.uint8, generator=generator)
    dataset = _dataset(Arrays(images, torch.zeros(RESIDENT, dtype=torch.int64)), 32)
    ready = torch.randn(RESIDENT, 3, 32, 32, device=device)
    order = torch.randperm(RESIDENT, device=device)

    def indexing() -> None:
        for part in order[: RESIDENT // BATCH * BATCH].split(BATCH):
            ready.index_select(0, part)

    def epoch(augment: str) -> Callable[[], None]:
        pipeline = make_pipeline(dataset, batch_size=BATCH, device=device, seed=0, augment=augment)

        def run() -> None:
            for _ in pipeline.batches(0):
                pass

        return run

    return interleaved(
        f"an epoch of {RESIDENT:,} images of 32 x 32 from memory, batch {BATCH}",
        {"indexing ready batches": indexing, "normalised": epoch("none"), "crop and flip": epoch("crop-flip")},
        rounds=rounds,
        warmup=2,
    )


def streaming(device: torch.device, rounds: int, folder: Path) -> Measurement:
    """An epoch of batches from JPEG files, with and without worker processes."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (FILES, 8, 10, 3), dtype=np.uint8)
    paths = []
    for number, pixels in enumerate(small):  # smooth, as photographs are: noise would be slow to decode
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray(pixels).resize((320, 256), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    dataset = _dataset(Files(tuple(paths), torch.zeros(FILES, dtype=torch.int64)), 224)

    def epoch(workers: int) -> Callable[[], None]:
        pipeline = make_pipeline(
            dataset, batch_size=32, device=device, seed=0, augment="resized-crop-flip", workers=workers
        )

        def run() -> None:
            for _ in pipeline.batches(0):
                pass

        return run

    counts = sorted({0, 2, min(usable_cores(), 16)})
    return interleaved(
        f"an epoch of {FILES} JPEG files, crops of 224 x 224, batch 32",
        {f"{count} workers": epoch(count) for count in counts},
        rounds=rounds,
        warmup=1,
    )


def _dataset(examples: Examples, size: int) -> Dataset:
    one = torch.zeros(1, dtype=torch.int64)
    return Dataset(
        name="made up",
        classes=("a",),
        channels=3,
        image_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train=examples,
        validation=examples.select(one),
        test=examples.select(one),
    )


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(heading())
    with tempfile.TemporaryDirectory() as folder:
        measurements = [resident(device, arguments.rounds), streaming(device, arguments.rounds, Path(folder))]
    for measurement, images in zip(measurements, (RESIDENT // BATCH * BATCH, FILES), strict=True):
        report(measurement)
        for candidate in measurement.samples:
            print(f"  {candidate:32} {images / measurement.median(candidate):10,.0f} images/s")
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
