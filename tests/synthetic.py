"""Small made-up data for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from granet.data import Arrays, Dataset


def write_image_folder(
    root: Path,
    *,
    splits: Sequence[str] = ("train", "test"),
    classes: int = 3,
    per_class: int = 6,
    size: int = 8,
    seed: int = 0,
) -> Path:
    """Write ``root/SPLIT/class-K/N.png``: noise over a grey level of each class's own, so that networks can learn."""
    noise = np.random.default_rng(seed)
    for split in splits:
        for label in range(classes):
            folder = root / split / f"class-{label}"
            folder.mkdir(parents=True)
            for index in range(per_class):
                level = 255 * (label + 0.5) / classes
                pixels = level + noise.uniform(-16, 16, (size, size, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def arrays_dataset(*, train: int = 30, channels: int = 3, size: int = 8, classes: int = 3, seed: int = 0) -> Dataset:
    """A dataset in memory whose training images are all different."""
    random = torch.Generator().manual_seed(seed)

    def part(count: int) -> Arrays:
        images = torch.randint(0, 256, (count, channels, size, size), generator=random, dtype=torch.uint8)
        return Arrays(images, torch.arange(count) % classes)

    return Dataset(
        name="synthetic",
        classes=tuple(f"class-{label}" for label in range(classes)),
        channels=channels,
        image_size=size,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        train=part(train),
        validation=part(7),
        test=part(9),
    )
