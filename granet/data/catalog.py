"""The datasets there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from granet.data.cifar import CIFAR10, CIFAR100, read_cifar
from granet.data.dataset import Arrays, Dataset, Stored, hold_out
from granet.data.folder import FOLDER_SPLITS, scan_folder
from granet.data.images import common_side, load_all
from granet.data.mnist import CLOTHES, DIGITS, EMBEDDED, EMBEDDED_DIRECTORY, FASHION_MNIST, MNIST, read_idx
from granet.data.shards import scan_shards
from granet.errors import DataError, UnknownNameError, UsageError

Residency = Literal["auto", "resident", "streaming"]

RESIDENCIES: tuple[Residency, ...] = get_args(Residency)

RESIDENT_BYTES = 1 << 30
"""Decoded pixels that residency "auto" keeps in memory at most."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A dataset of a fixed size that is always in memory.

    Args:
        name: what recipes call it.
        description: one line for people.
        classes, image_size, mean, std: as :class:`Dataset` has them.
        read: reads training and test examples from a directory; ``download`` fetches files that are missing.
        embedded: the directory of a set that comes with the package.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[..., tuple[Arrays, Arrays]]
    embedded: Path | None = None

    def open(
        self,
        directory: Path | None,
        *,
        validation: float,
        seed: int,
        image_size: int | None,
        download: bool,
        residency: Residency,
        follow_links: bool,
    ) -> Dataset:
        """Read the set, and hold out a validation split; arguments as for :func:`open_dataset`."""
        if residency == "streaming":
            raise UsageError(
                f"dataset {self.name} is kept in memory and cannot be streamed", remedy='leave residency at "auto"'
            )
        if follow_links:
            raise UsageError(
                f"dataset {self.name} has files of its own, not folders with links", remedy="leave follow_links out"
            )
        if image_size not in (None, self.image_size):
            raise UsageError(
                f"dataset {self.name} has images of one size",
                got=image_size,
                expected=self.image_size,
                remedy="leave image_size out",
            )
        if self.embedded is not None and directory is not None:
            raise UsageError(
                f"dataset {self.name} comes with the package and has no data directory",
                got=directory,
                remedy="leave the directory out, or name another dataset",
            )
        published, test = self.read(self.embedded or _needed(directory, self.name), download=download)
        train, held_out = hold_out(published, validation, classes=self.classes, seed=seed)
        return Dataset(
            name=self.name,
            classes=self.classes,
            channels=len(self.mean),
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            train=train,
            validation=held_out,
            test=test,
        )


@dataclass(frozen=True, kw_only=True)
class OwnImages:
    """Images that the user brings, in RGB, with ImageNet's mean and standard deviation.

        train and test          validation is held out of train
        train and val           likewise, and val is the test split: ImageNet has no other public labels
        train, val and test     they are the three splits, and nothing is held out

    Args:
        name: what recipes call it.
        description: one line for people.
        container: what holds the images, for messages.
        scan: finds the images in a folder: examples by :data:`FOLDER_SPLITS`, and the classes.
    """

    name: str
    description: str
    container: str
    scan: Callable[..., tuple[Mapping[str, Stored], tuple[str, ...]]]

    def open(
        self,
        directory: Path | None,
        *,
        validation: float,
        seed: int,
        image_size: int | None,
        download: bool,
        residency: Residency,
        follow_links: bool,
    ) -> Dataset:
        """Find the images, decode them if they stay in memory, and hold out a validation split if there is none.

        Arguments as for :func:`open_dataset`.
        """
        if download:
            raise UsageError(f"{self.container} cannot be downloaded", remedy="leave the download out")
        directory = _needed(directory, self.name)
        if not directory.is_dir():
            raise DataError("no such folder", where=directory, remedy=f"name the folder that is {self.container}")
        stored, classes = self.scan(directory.absolute(), follow_links=follow_links)
        # With a given size and thousands of folders' worth of images, there is no need to look into any of them.
        look = residency != "streaming" or image_size is None
        own = common_side(chain.from_iterable(part.reader().sizes() for part in stored.values())) if look else None
        side = image_size or own
        if side is None:
            raise DataError(
                "the images differ in size or are not square, so the size to train at has to be given",
                where=directory,
                remedy="set image_size, for instance to 224",
            )
        fits = own == side and sum(map(len, stored.values())) * 3 * side * side <= RESIDENT_BYTES
        splits: Mapping[str, Arrays] | Mapping[str, Stored] = stored
        if residency == "resident" or (residency == "auto" and fits):
            splits = {split: Arrays(load_all(part.reader(), side), part.labels) for split, part in stored.items()}
        if len(splits) == len(FOLDER_SPLITS):
            train, held_out = splits["train"], splits["val"]
        else:
            train, held_out = hold_out(splits["train"], validation, classes=classes, seed=seed)
        return Dataset(
            name=self.name,
            classes=classes,
            channels=3,
            image_size=side,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            train=train,
            validation=held_out,
            test=splits["test"] if "test" in splits else splits["val"],
        )


DatasetEntry = PublishedSet | OwnImages
"""A line of the catalog."""


def _needed(directory: Path | None, name: str) -> Path:
    if directory is None:
        raise UsageError(f"dataset {name} needs a data directory", remedy="name the folder that holds it, or is to")
    return directory


_ENTRIES: tuple[DatasetEntry, ...] = (
    PublishedSet(
        name="fashion-mnist-subset",
        description="12,000 of Fashion-MNIST's images, 28 x 28 grey, 10 classes; comes with the package",
        classes=CLOTHES,
        image_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        read=partial(read_idx, EMBEDDED),
        embedded=EMBEDDED_DIRECTORY,
    ),
    PublishedSet(
        name="mnist",
        description="70,000 handwritten digits, 28 x 28 grey, 10 classes; idx files, gzipped or not",
        classes=DIGITS,
        image_size=28,
        mean=(0.1307,),
        std=(0.3081,),
        read=partial(read_idx, MNIST),
    ),
    PublishedSet(
        name="fashion-mnist",
        description="70,000 articles of clothing, 28 x 28 grey, 10 classes; idx files, gzipped or not",
        classes=CLOTHES,
        image_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        read=partial(read_idx, FASHION_MNIST),
    ),
    PublishedSet(
        name="cifar10",
        description="60,000 photographs, 32 x 32 colour, 10 classes; the binary version, as an archive or unpacked",
        classes=CIFAR10.classes,
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        read=partial(read_cifar, CIFAR10),
    ),
    PublishedSet(
        name="cifar100",
        description="60,000 photographs, 32 x 32 colour, 100 classes; the binary version, as an archive or unpacked",
        classes=CIFAR100.classes,
        image_size=32,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        read=partial(read_cifar, CIFAR100),
    ),
    OwnImages(
        name="image-folder",
        description="your own images, or ImageNet: train/CLASS/* with test/CLASS/*, val/CLASS/* or both",
        container="an image folder",
        scan=scan_folder,
    ),
    OwnImages(
        name="tar-shards",
        description="the same as WebDataset shards: train-000000.tar and so on with test-*.tar, val-*.tar or both",
        container="a folder of tar shards",
        scan=scan_shards,
    ),
)

DATASETS: Mapping[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
"""By name. Means and standard deviations are those of all pixels of the training images, the usual constants."""

SIZED: frozenset[str] = frozenset({"image-folder", "tar-shards"})
"""Datasets whose images may have any size, so that ``image_size`` can be set."""


def open_dataset(
    name: str,
    *,
    directory: Path | None = None,
    validation: float = 0.1,
    seed: int = 0,
    image_size: int | None = None,
    download: bool = False,
    residency: Residency = "auto",
    follow_links: bool = False,
) -> Dataset:
    """Open a dataset of the catalog, split into training, validation and test examples.

    Args:
        name: a key of ``DATASETS``.
        directory: where its files are; not for data that comes with the package.
        validation: the fraction of the training data to hold out for validation, in (0, 1), class by class. An image
            folder, or shards, with both ``val`` and ``test`` bring their own, and this fraction is not used.
        seed: keys which examples are held out.
        image_size: for those of ``SIZED``, height and width in pixels that networks see; None for the images' own, if
            they share one.
        download: fetch published files that are missing into ``directory``.
        residency: "resident" decodes everything now, each image as evaluation sees it; "streaming" (those of
            ``SIZED`` only) nothing; "auto" decodes images that have the size in question and fit in
            ``RESIDENT_BYTES``.
        follow_links: for those of ``SIZED``, whether links may lead out of ``directory``.

    Raises:
        UnknownNameError: there is no such dataset or residency.
        UsageError: an argument is out of range, or this dataset does not take it.
        DataError: the data is missing, damaged or inconsistent.
    """
    if name not in DATASETS:
        raise UnknownNameError("dataset", name, DATASETS)
    if residency not in RESIDENCIES:
        raise UnknownNameError("residency", residency, RESIDENCIES)
    if not 0 < validation < 1:
        raise UsageError("validation is a fraction of the training data", got=validation, expected="0 < validation < 1")
    if image_size is not None and image_size < 1:
        raise UsageError("image_size is a number of pixels", got=image_size, expected="at least 1")
    return DATASETS[name].open(
        directory,
        validation=validation,
        seed=seed,
        image_size=image_size,
        download=download,
        residency=residency,
        follow_links=follow_links,
    )
