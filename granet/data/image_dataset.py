"""A dataset of images of the user's own, from what was found on disk: what is held out, and what is decoded now."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from granet.data.dataset import Arrays, Dataset, Stored
from granet.data.images import common_side, load_all
from granet.data.split import hold_out
from granet.errors import DataError

RESIDENT_BYTES = 1 << 30
"""Decoded pixels that residency "auto" keeps in memory at most."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LAYOUTS = ("train", "val", "test")
"""What splits are called on disk. With train and one other, that one is the test split, as ImageNet's val has no
public labels but these, and validation is held out of train; with all three each is what it says."""


def dataset_of(
    name: str,
    directory: Path,
    parts: Mapping[str, Stored],
    classes: tuple[str, ...],
    *,
    validation: float,
    seed: int,
    image_size: int | None,
    residency: str,
) -> Dataset:
    """The dataset, in RGB, with ImageNet's mean and standard deviation.

    Args:
        name: what to call it.
        directory: where it lies, for messages.
        parts: "train" and at least one of "val" and "test".
        classes: class names; labels are indices into them.
        validation: the share of ``train`` to hold out, where there are not all three parts.
        seed: keys what is held out.
        image_size: height and width in pixels that networks see; None for the images' own, if they share one.
        residency: "resident" decodes everything now, each image as evaluation sees it; "streaming" nothing; "auto"
            decodes if all images have that size and fit in ``RESIDENT_BYTES``.

    Raises:
        DataError: the size has to be given, an image cannot be read, or a class is too small to hold some out.
    """
    count = sum(len(part) for part in parts.values())
    # With thousands of folders' worth of images and a given size, there is no need to look into any of them.
    look = residency != "streaming" or image_size is None
    own = common_side(chain.from_iterable(part.reader().sizes() for part in parts.values())) if look else None
    side = image_size or own
    if side is None:
        raise DataError(
            "the images differ in size or are not square, so the size to train at has to be given",
            where=directory,
            remedy="set image_size, for instance to 224",
        )
    fits = own == side and count * 3 * side * side <= RESIDENT_BYTES
    splits: Mapping[str, Arrays] | Mapping[str, Stored] = parts
    if residency == "resident" or (residency == "auto" and fits):
        splits = {split: Arrays(load_all(part.reader(), len(part), side), part.labels) for split, part in parts.items()}

    if len(splits) == len(LAYOUTS):
        train, held = splits["train"], splits["val"]
    else:
        train, held = hold_out(splits["train"], validation, classes=classes, seed=seed)
    return Dataset(
        name=name,
        classes=classes,
        channels=3,
        image_size=side,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train=train,
        validation=held,
        test=splits["test"] if "test" in splits else splits["val"],
    )
