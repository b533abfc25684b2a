"""Batches from data in memory against the usual way, image by image through Pillow in a DataLoader.

    python -m benchmarks.input_resident [--rounds 9] [--images 10000] [--json FILE]

Images of 32 x 32 pixels, cropped after padding by 4, mirrored and normalised, in batches of 128. The usual way is
measured twice: with torchvision's transforms, where torchvision is installed, and written by hand with nothing but the
Pillow and NumPy calls that are needed, about twice as fast; each without workers and with two that persist.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.measure import Measurement, heading, interleaved, report, save
from benchmarks.pictures import dataset_of
from granet.data import Arrays, make_pipeline
from granet.errors import ModelError
from granet.models.torchvision_guard import import_torchvision

BATCH, SIDE = 128, 32
LIMIT_CPU, LIMIT_CUDA = 5.0, 20.0


class Images(TorchDataset[tuple[Tensor, int]]):
    """Images in memory as torchvision's CIFAR10 has them, each made a Pillow image when it is asked for."""

    def __init__(self, pixels: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), index % 10


class ByHand:
    """Crop, flip and normalisation by the fewest calls: Pillow pads for nothing when a crop reaches beyond an edge."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = 255 * torch.tensor(mean).view(3, 1, 1)
        self.scale = 1 / (255 * torch.tensor(std).view(3, 1, 1))

    def __call__(self, image: Image.Image) -> Tensor:
        """What training gets to see of an image."""
        left, top = random.randint(-4, 4), random.randint(-4, 4)  # noqa: S311  no secrets here
        image = image.crop((left, top, left + SIDE, top + SIDE))
        if random.random() < 0.5:  # noqa: S311
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().sub_(self.mean).mul_(self.scale)


def torchvision_transforms(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Image.Image], Tensor] | None:
    """What CIFAR is trained with in most repositories; None without torchvision."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transforms: Any = import_torchvision().transforms
    except ModelError:
        return None
    steps = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    chain: Callable[[Image.Image], Tensor] = transforms.Compose([*steps, transforms.Normalize(mean, std)])
    return chain


def measure(device: torch.device, count: int, rounds: int) -> Measurement:
    """Seconds for an epoch of each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    dataset = dataset_of(Arrays(images, torch.arange(count) % 10), SIDE)
    pipeline = make_pipeline(dataset, batch_size=BATCH, device=device, seed=0, augment="crop-flip")
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    epochs = iter(range(10**6))

    def resident() -> None:
        for _ in pipeline.batches(next(epochs)):
            pass

    candidates: dict[str, Callable[[], None]] = {"granet, resident": resident}
    ways: dict[str, Callable[[Image.Image], Tensor] | None] = {
        "Pillow by hand": ByHand(dataset.mean, dataset.std),
        "torchvision": torchvision_transforms(dataset.mean, dataset.std),
    }
    for name, transform in ways.items():
        if transform is not None:
            for workers in (0, 2):
                loader = _loader(Images(pixels, transform), workers, device)
                candidates[f"{name}, {workers} workers"] = _epoch_of(loader, device)
    title = f"an epoch of {count // BATCH * BATCH:,} images of {SIDE} x {SIDE}, crop and flip, batch {BATCH}"
    return interleaved(title, candidates, rounds=rounds, warmup=2)


def _loader(images: Images, workers: int, device: torch.device) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        images,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def _epoch_of(loader: DataLoader[tuple[Tensor, int]], device: torch.device) -> Callable[[], None]:
    def epoch() -> None:
        for images, labels in loader:
            images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return epoch


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(heading())
    measurement = measure(device, arguments.images, arguments.rounds)
    limit = LIMIT_CUDA if device.type == "cuda" else LIMIT_CPU
    report(measurement, limits=dict.fromkeys(list(measurement.samples)[1:], f">= {limit:.2f}"))
    for name in measurement.samples:
        print(f"  {name:32} {arguments.images // BATCH * BATCH / measurement.median(name):10,.0f} images/s")
    if arguments.json:
        save(arguments.json, [measurement])


if __name__ == "__main__":
    main()
