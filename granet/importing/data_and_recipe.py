"""What a file of weights does not contain: its images, its classes, and a recipe to continue from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from granet.data import DATASETS, Dataset, open_dataset
from granet.data.catalog import IMAGENET_MEAN, IMAGENET_STD, SIZED, DatasetEntry, OwnImages
from granet.errors import UnknownNameError, UsageError, listing
from granet.recipe import Recipe

FOLDER = "image-folder"
"""The dataset for the user's own images."""


@dataclass(frozen=True, kw_only=True)
class ImportedImages:
    """What is known of a network's images; None where it is not known."""

    name: str = FOLDER
    directory: Path | None = None
    follow_links: bool | None = None
    classes: tuple[str, ...] | None = None
    in_channels: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def with_asked(self, classes: int | Sequence[str] | None, **asked: Any) -> ImportedImages:
        """Return these completed by what the user asked for, by the names of the fields.

        Raises:
            UsageError: something that was asked for contradicts the dataset, or is impossible.
        """
        if self.classes is None or classes != len(self.classes):  # that number of classes is no contradiction
            asked["classes"] = _class_names(classes)
        asked = {field: value for field, value in asked.items() if value is not None}
        for field, value in asked.items():
            known = getattr(self, field)
            if known not in (None, value):
                raise UsageError(
                    f"not what dataset {self.name} has",
                    where=f"--{field.replace('_', '-')}",
                    got=_shown(value),
                    expected=_shown(known),
                )
        return replace(self, **asked)

    def normalisation(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
        """Return mean and standard deviation of each channel, ImageNet's where none are known, and remarks.

        Raises:
            UsageError: none are known and the images are not in colour, or not one for each channel.
        """
        mean, std = self.mean, self.std
        if mean is None and std is None and channels == 3:
            return IMAGENET_MEAN, IMAGENET_STD, ("images are normalised as ImageNet's; --mean and --std say otherwise",)
        if mean is None or std is None:
            raise UsageError(
                "how images are normalised is not known", where="--mean, --std", remedy="give both, or the dataset"
            )
        if not len(mean) == len(std) == channels or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UsageError(
                "mean and std need one finite number for each channel, those of std above 0",
                where="--mean, --std",
                got=f"{list(mean)} and {list(std)}",
                expected=f"{channels} each",
            )
        return mean, std, ()


def of_dataset(
    data: str | None, directory: Path | None, image_size: int | None, *, follow_links: bool = False
) -> ImportedImages:
    """Return what is known of a dataset of the catalog, or of the image folder in ``directory``.

    Files are looked at for the user's own images only: their names, and their sizes where ``image_size`` is None.

    Raises:
        UnknownNameError: no such dataset.
        DataError: ``directory`` does not hold images of that kind, or they have no size in common.
    """
    name = data or FOLDER
    if name not in DATASETS:
        raise UnknownNameError("dataset", name, DATASETS, where="--data")
    source: DatasetEntry | Dataset = DATASETS[name]
    if isinstance(source, OwnImages):
        if directory is None:
            return ImportedImages(name=name)
        directory = directory.absolute()
        source = open_dataset(
            name, directory=directory, image_size=image_size, residency="streaming", follow_links=follow_links
        )
    return ImportedImages(
        name=name,
        directory=directory,
        follow_links=follow_links or None,
        classes=source.classes,
        in_channels=len(source.mean),
        image_size=source.image_size,
        mean=source.mean,
        std=source.std,
    )


def recipe(model: str, images: ImportedImages, density: float) -> Recipe:
    """Return a recipe that claims nothing about how the weights were trained.

    The method is ``static`` at the density of the masks, or ``dense`` at 1. Optimizer, schedule and length are
    required in a recipe but unknown for weights: they are those of a short fine-tuning, which the description says.
    """
    method: dict[str, Any] = {"name": "dense"} if density == 1 else {"name": "static", "density": density}
    data: dict[str, Any] = {"name": images.name}
    if images.directory is not None:
        data["directory"] = str(images.directory)
    if images.follow_links:
        data["follow_links"] = True
    if images.name in SIZED:
        data["image_size"] = images.image_size
    settings = {
        "name": "imported",
        "description": "Imported weights. How they were trained is not known: the settings of training are ours",
        "model": {"name": model},
        "data": data,
        "method": method,
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9},
        "schedule": {"name": "constant"},
        "training": {"epochs": 1, "batch_size": 128, "precision": "fp32"},
    }
    return Recipe.from_dict(settings, where="recipe of imported weights")


def _class_names(classes: int | Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, int):
        if not 1 <= classes <= 1_000_000:
            raise UsageError("out of range", where="--classes", got=classes, expected="1 to 1000000")
        return numbered(classes)
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if not names or not all(names) or len(set(names)) != len(names):
        raise UsageError("class names must differ and not be empty", where="--classes", got=", ".join(names[:10]))
    return names


def numbered(classes: int) -> tuple[str, ...]:
    """Return names for classes of which only the number is known: "0", "1", ..."""
    return tuple(map(str, range(classes)))


def _shown(value: object) -> object:
    return (
        f"{len(value)}: {listing(value, 6, width=60)}"
        if isinstance(value, tuple) and isinstance(value[0], str)
        else value
    )
