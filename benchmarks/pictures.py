"""Made-up photographs, whose files are as large and as slow to decode as those of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from granet.data import Dataset
from granet.data.dataset import Examples, Files


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Noise whose amplitude falls with frequency as in nature, in channels that resemble each other."""
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(width, height)) ** 1.1

    def plane() -> np.ndarray:
        phase = np.exp(2j * np.pi * random.random((height, width // 2 + 1)))
        return np.fft.irfft2(amplitude * phase, s=(height, width))

    brightness = plane()
    pixels = np.stack([brightness + 0.35 * plane() for _ in range(3)], axis=-1)
    pixels = 118 + 55 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Writes ``count`` photographs, quality 90: 110 kB each at 500 x 375, which is ImageNet's average."""
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photograph(width, height, number).save(path, quality=90)
    return paths


def dataset_of(examples: Examples, side: int) -> Dataset:
    """A dataset that trains on ``examples``."""
    few = examples.select(torch.arange(1))
    return Dataset(
        name="made up",
        classes=tuple("abcdefghij"),
        channels=3,
        image_size=side,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train=examples,
        validation=few,
        test=few,
    )


def files_of(paths: list[Path]) -> Files:
    """The pictures as examples."""
    return Files(tuple(paths), torch.arange(len(paths)) % 10)
