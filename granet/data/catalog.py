"""The datasets there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from granet.data.cifar import CIFAR10, CIFAR100, CifarSet, read_cifar
from granet.data.dataset import Arrays, Dataset
from granet.data.folder import open_folder
from granet.data.mnist import CLOTHES, DIGITS, EMBEDDED, EMBEDDED_DIRECTORY, FASHION_MNIST, MNIST, IdxSet, read_idx
from granet.data.shards import open_shards
from granet.data.split import hold_out
from granet.errors import UnknownNameError, UsageError

Residency = Literal["auto", "resident", "streaming"]

RESIDENCIES: tuple[Residency, ...] = get_args(Residency)


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """What :func:`open_dataset` was asked for; the fields are its arguments."""

    name: str
    directory: Path | None
    validation: float
    seed: int
    image_size: int | None
    download: bool
    residency: Residency

    def needed_directory(self) -> Path:
        """The directory, for a dataset that cannot do without.

        Raises:
            UsageError: none was given.
        """
        if self.directory is None:
            raise UsageError(
                f"dataset {self.name} needs a data directory", remedy="name the folder that holds it, or is to"
            )
        return self.directory


@dataclass(frozen=True)
class DatasetEntry:
    """A line of the catalog.

    Args:
        name: what recipes call it.
        description: one line for people.
        open: makes the dataset.
    """

    name: str
    description: str
    open: Callable[[DatasetRequest], Dataset]


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A dataset of a fixed size that is always held in memory; calling it opens it."""

    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[DatasetRequest], tuple[Arrays, Arrays]]

    def __call__(self, request: DatasetRequest) -> Dataset:
        """Read it, and hold out a validation split."""
        if request.residency == "streaming":
            raise UsageError(
                f"dataset {request.name} is held in memory and cannot be streamed", remedy='leave residency at "auto"'
            )
        if request.image_size not in (None, self.image_size):
            raise UsageError(
                f"dataset {request.name} has images of one size",
                got=request.image_size,
                expected=self.image_size,
                remedy="leave image_size out",
            )
        published, test = self.read(request)
        train, validation = hold_out(published, request.validation, classes=self.classes, seed=request.seed)
        return Dataset(
            name=request.name,
            classes=self.classes,
            channels=len(self.mean),
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            train=train,
            validation=validation,
            test=test,
        )


def _idx(files: IdxSet) -> Callable[[DatasetRequest], tuple[Arrays, Arrays]]:
    return lambda request: read_idx(files, request.needed_directory(), download=request.download)


def _cifar(files: CifarSet) -> Callable[[DatasetRequest], tuple[Arrays, Arrays]]:
    return lambda request: read_cifar(files, request.needed_directory(), download=request.download)


def _embedded(request: DatasetRequest) -> tuple[Arrays, Arrays]:
    if request.directory is not None:
        raise UsageError(
            f"dataset {request.name} comes with the package and has no data directory",
            got=request.directory,
            remedy="leave the directory out, or name another dataset",
        )
    return read_idx(EMBEDDED, EMBEDDED_DIRECTORY)


class _Opener(Protocol):
    def __call__(
        self, name: str, directory: Path, *, validation: float, seed: int, image_size: int | None, residency: str
    ) -> Dataset: ...


def _own(opener: _Opener, what: str) -> Callable[[DatasetRequest], Dataset]:
    """Opens images of the user's own, which nobody has published."""

    def open_own(request: DatasetRequest) -> Dataset:
        if request.download:
            raise UsageError(f"{what} cannot be downloaded", remedy="leave the download out")
        return opener(
            request.name,
            request.needed_directory(),
            validation=request.validation,
            seed=request.seed,
            image_size=request.image_size,
            residency=request.residency,
        )

    return open_own


_ENTRIES = (
    DatasetEntry(
        "fashion-mnist-subset",
        "12,000 of Fashion-MNIST's images, 28 x 28 grey, 10 classes; comes with the package",
        PublishedSet(classes=CLOTHES, image_size=28, mean=(0.2860,), std=(0.3530,), read=_embedded),
    ),
    DatasetEntry(
        "mnist",
        "70,000 handwritten digits, 28 x 28 grey, 10 classes; idx files, gzipped or not",
        PublishedSet(classes=DIGITS, image_size=28, mean=(0.1307,), std=(0.3081,), read=_idx(MNIST)),
    ),
    DatasetEntry(
        "fashion-mnist",
        "70,000 articles of clothing, 28 x 28 grey, 10 classes; idx files, gzipped or not",
        PublishedSet(classes=CLOTHES, image_size=28, mean=(0.2860,), std=(0.3530,), read=_idx(FASHION_MNIST)),
    ),
    DatasetEntry(
        "cifar10",
        "60,000 photographs, 32 x 32 colour, 10 classes; the binary version, as an archive or unpacked",
        PublishedSet(
            classes=CIFAR10.classes,
            image_size=32,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            read=_cifar(CIFAR10),
        ),
    ),
    DatasetEntry(
        "cifar100",
        "60,000 photographs, 32 x 32 colour, 100 classes; the binary version, as an archive or unpacked",
        PublishedSet(
            classes=CIFAR100.classes,
            image_size=32,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            read=_cifar(CIFAR100),
        ),
    ),
    DatasetEntry(
        "image-folder",
        "your own images, or ImageNet: train/CLASS/* with test/CLASS/*, val/CLASS/* or both",
        _own(open_folder, "an image folder"),
    ),
    DatasetEntry(
        "tar-shards",
        "the same as WebDataset shards: train-000000.tar and so on with test-*.tar, val-*.tar or both",
        _own(open_shards, "a folder of tar shards"),
    ),
)

DATASETS: Mapping[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
"""By name. Means and standard deviations are those of all pixels of the training images, the usual constants."""

SIZED: frozenset[str] = frozenset({"image-folder", "tar-shards"})
"""Those whose images have no size of their own, so that ``image_size`` can be set."""


def open_dataset(
    name: str,
    *,
    directory: Path | None = None,
    validation: float = 0.1,
    seed: int = 0,
    image_size: int | None = None,
    download: bool = False,
    residency: Residency = "auto",
) -> Dataset:
    """Open a dataset of the catalog, split into training, validation and test examples.

    Args:
        name: a key of ``DATASETS``.
        directory: where its files are; not for data that comes with the package.
        validation: the fraction of the training data to hold out for validation, in (0, 1), class by class. An image
            folder, or shards, with ``val`` besides ``test`` bring their own, and this fraction has no part then.
        seed: keys which examples are held out.
        image_size: for those of ``SIZED``, height and width in pixels that networks see; None for the images' own.
        download: fetch published files that are missing into ``directory``.
        residency: "resident" in memory, "streaming" from disk (those of ``SIZED`` only), or "auto": in memory,
            except images of those that are large or of different sizes.

    Raises:
        UnknownNameError: no such dataset or residency.
        UsageError: an argument out of range, or one that this dataset has no use for.
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
        DatasetRequest(
            name=name,
            directory=directory,
            validation=validation,
            seed=seed,
            image_size=image_size,
            download=download,
            residency=residency,
        )
    )
