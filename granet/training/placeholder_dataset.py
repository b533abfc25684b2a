"""A dataset without images, of the right sizes, to plan a run whose data are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from granet.data import DATASETS, Dataset, Files
from granet.data.catalog import IMAGENET_MEAN, IMAGENET_STD, PublishedSet
from granet.errors import UsageError
from granet.recipe import Recipe

TRAINING_IMAGES: Mapping[str, int] = {"mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
"""The training images of published datasets, before a validation split is held out."""

_IMAGENET_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class PlaceholderImages:
    """Sizes of a dataset that is not on this machine.

    Attributes:
        count: training images, before a validation split is held out; None is the number of the published dataset.
        classes: None is the number of the published dataset.
    """

    count: int | None = None
    classes: int | None = None


def placeholder_dataset(recipe: Recipe, images: PlaceholderImages) -> Dataset:
    """Return a dataset with the sizes of that of ``recipe``, without images.

    Raises:
        UsageError: a size is not known, or out of range.
    """
    name = recipe.data.name
    entry = DATASETS.get(name)
    published = entry if isinstance(entry, PublishedSet) else None
    count = images.count if images.count is not None else TRAINING_IMAGES.get(name)
    classes = images.classes if images.classes is not None else len(published.classes) if published else None
    for option, known in (("--images", count), ("--classes", classes)):
        if known is None:
            raise UsageError(
                f"the size of dataset {name} is not known",
                where=option,
                remedy="say it, or where the dataset lies with --data",
            )
        if known < 1:
            raise UsageError("must be at least 1", where=option, got=known)
    assert count is not None and classes is not None  # noqa: S101, PT018  or it was raised
    held_out = max(round(recipe.data.validation * count), 1)
    if held_out >= count:
        raise UsageError("too few images to hold some out", where="--images", got=count)

    def files(number: int) -> Files:
        return Files((Path("nowhere"),) * number, torch.zeros(number, dtype=torch.int64))

    size = published.image_size if published else recipe.data.image_size or _IMAGENET_SIZE
    mean, std = (published.mean, published.std) if published else (IMAGENET_MEAN, IMAGENET_STD)
    return Dataset(
        name=name,
        classes=published.classes if published else tuple(str(label) for label in range(classes)),
        channels=len(mean),
        image_size=size,
        mean=mean,
        std=std,
        train=files(count - held_out),
        validation=files(held_out),
        test=files(1),
    )
