"""A dataset: three splits of labelled images, in memory or on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from granet.data.images import PathReader
from granet.data.shard_images import ShardImages
from granet.errors import DataError, UnknownNameError
from granet.randomness import generator

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Labelled images in memory.

    Args:
        images: uint8 [N, C, H, W], 0..255, RGB order where C is 3.
        labels: int64 [N], indices into the dataset's ``classes``.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or len(self.images) != len(self.labels):
            raise DataError(
                "there must be one label for each image",
                got=f"{self.images.dtype} images {list(shape)} with {len(self.labels)} labels",
                expected="uint8 images [N, C, H, W] with N labels",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Arrays:
        """Return the examples at ``indices`` (int64), in that order, as a copy."""
        return Arrays(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Files:
    """Labelled images on disk, to be decoded each time they are used.

    Args:
        paths: one image file per example, absolute.
        labels: int64 [N], indices into the dataset's ``classes``.
    """

    paths: tuple[Path, ...]
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise DataError(
                "there must be one label for each file",
                got=f"{len(self.paths)} files with {len(self.labels)} labels",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Files:
        """Return the examples at ``indices`` (int64), in that order."""
        return Files(tuple(self.paths[index] for index in indices.tolist()), self.labels[indices])

    def reader(self) -> PathReader:
        """Return a reader of the images."""
        return PathReader(self.paths)


Stored = Files | ShardImages
"""Images that stay on disk: files by their paths, or members of archives."""

Examples = Arrays | Stored


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A dataset, with all that training and a checkpoint need to know of it.

    Args:
        name: the catalog name it was opened by.
        classes: class names; a label is an index into them.
        channels: 1 or 3.
        image_size: height and width, in pixels, of the square images that a network sees.
        mean, std: per channel, of pixels scaled to 0..1; a pixel enters a network as ``(x / 255 - mean) / std``.
        train, validation, test: the splits, either all in memory or all on disk. They share no example.

    Raises:
        DataError: the parts contradict each other.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Examples
    validation: Examples
    test: Examples

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise DataError(
                "mean and std need one number per channel",
                where=self.name,
                got=f"{len(self.mean)} and {len(self.std)}",
                expected=self.channels,
            )
        if len({type(self.split(split)) for split in SPLITS}) > 1:
            raise DataError("the splits are neither all in memory nor all on disk", where=self.name)
        for split in SPLITS:
            self._check(split)

    def _check(self, split: Split) -> None:
        where, examples = f"{self.name}, {split} split", self.split(split)
        if len(examples) == 0:
            raise DataError("no examples", where=where)
        low, high = int(examples.labels.min()), int(examples.labels.max())
        if examples.labels.dtype != torch.int64 or low < 0 or high >= len(self.classes):
            raise DataError(
                "labels are not indices into the classes",
                where=where,
                got=f"{examples.labels.dtype} from {low} to {high}",
                expected=f"torch.int64 from 0 to {len(self.classes) - 1}",
            )
        shape = (self.channels, self.image_size, self.image_size)
        if isinstance(examples, Arrays) and tuple(examples.images.shape[1:]) != shape:
            raise DataError(
                "images have the wrong shape", where=where, got=list(examples.images.shape[1:]), expected=list(shape)
            )

    def split(self, name: str) -> Examples:
        """Return the examples of ``"train"``, ``"validation"`` or ``"test"``.

        Raises:
            UnknownNameError: there is no such split.
        """
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        examples: Examples = getattr(self, name)
        return examples


def hold_out(examples: Examples, fraction: float, *, classes: tuple[str, ...], seed: int) -> tuple[Examples, Examples]:
    """Split ``examples`` into a training and a validation part.

    Stratified: of each class's n examples ``round(fraction * n)`` are held out, though at least one. Which ones
    depends on nothing but ``seed`` and the labels. Both parts keep the order of ``examples``.

    Args:
        examples: the training data as published.
        fraction: the share to hold out, in (0, 1).
        classes: class names, for the error message.
        seed: keys the draw.

    Raises:
        DataError: a class would have no example in one of the two parts.
    """
    held_out = torch.zeros(len(examples), dtype=torch.bool)
    for label, name in enumerate(classes):
        members = torch.nonzero(examples.labels == label).flatten()
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise DataError(
                f"class {name!r} has too few training images to hold some out for validation",
                got=f"{len(members)} images and a validation fraction of {fraction:g}",
                remedy="add images, or ask for a smaller validation fraction",
            )
        shuffled = torch.randperm(len(members), generator=generator(seed, "validation", label))
        held_out[members[shuffled[:count]]] = True
    return examples.select(torch.nonzero(~held_out).flatten()), examples.select(torch.nonzero(held_out).flatten())
