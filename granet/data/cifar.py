"""CIFAR-10 and CIFAR-100 in the publisher's binary version (Krizhevsky 2009, Learning Multiple Layers of Features).

The more common "python version" is a set of pickles, and a pickle may run any code when it is read; it is refused.
The binary version holds the same images: records of one label byte (CIFAR-100: coarse, then fine) and 3,072 pixels,
red plane, green plane, blue plane.

An archive is checked by its published MD5 and read in memory; nothing is unpacked to disk. Unpacked CIFAR-10
files are checked by MD5 too. For the two files of CIFAR-100 the publisher gives no checksum, so those are
checked for their exact size, for labels in range, and for every class having as many images as the others.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from granet.data.dataset import Arrays
from granet.data.published import DownloadSource, PublishedFile, check_md5, check_size, locate, read, read_stream
from granet.errors import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True, kw_only=True)
class CifarSet:
    """The published files of a set.

    Args:
        archive: the whole set as a ``.tar.gz``.
        folder: the folder that the archive unpacks to.
        train, test: the files in it.
        classes: their names, in the order of the labels.
        label_bytes: how many precede the pixels of a record; the last of them is the label.
        pickled: names by which the python version is recognised, to say that it is the wrong one.
    """

    archive: DownloadSource
    folder: str
    train: tuple[PublishedFile, ...]
    test: PublishedFile
    classes: tuple[str, ...]
    label_bytes: int
    pickled: tuple[str, ...]


def read_cifar(files: CifarSet, directory: Path, *, download: bool = False) -> tuple[Arrays, Arrays]:
    """Return the training and the test examples of a set; images are uint8 [N, 3, 32, 32].

    Args:
        files: which set.
        directory: the folder that holds its archive, its unpacked folder, or the unpacked files themselves. Unpacked
            files are preferred, being faster to read.
        download: fetch the archive if there is none of these.

    Raises:
        DataError: the set is missing, truncated or not the published one, or cannot be downloaded.
    """
    parts = (*files.train, files.test)
    archive = directory / files.archive.name
    for found in (directory / files.folder, directory):
        if any((found / part.name).is_file() for part in parts):
            contents = {part.name: read(locate([part.name], found), part) for part in parts}
            break
    else:
        pickled = next((name for name in files.pickled if (directory / name).exists()), None)
        if pickled is not None and not archive.exists() and not download:
            raise DataError(
                "this is the python version, a set of pickles, and pickles are not read",
                where=directory / pickled,
                expected=f"the binary version, {files.archive.name}",
                remedy=f"get it from {files.archive.url}, or allow its download",
            )
        found = locate([files.archive.name], directory, source=files.archive, download=download)
        contents = _read_archive(found, files)
    return (
        _examples([contents[part.name] for part in files.train], files, where=f"{found}, training files"),
        _examples([contents[files.test.name]], files, where=f"{found}, {files.test.name}"),
    )


def _read_archive(path: Path, files: CifarSet) -> dict[str, Tensor]:
    """Return the contents of the set's files by name, from the archive at ``path``."""
    wanted = {f"{files.folder}/{part.name}": part for part in (*files.train, files.test)}
    contents: dict[str, Tensor] = {}
    try:
        check_size(path.stat().st_size, files.archive.size, where=path)
        with path.open("rb") as archive:
            digest = hashlib.file_digest(archive, partial(hashlib.md5, usedforsecurity=False))
        check_md5(digest.hexdigest(), files.archive.md5, where=path)
        # Members are picked by their exact names and read as a stream: no path of the archive touches the disk.
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                part = wanted.get(member.name)
                stream = archive.extractfile(member) if part is not None and member.isreg() else None
                if part is not None and stream is not None:
                    contents[part.name] = read_stream(cast(BinaryIO, stream), part, where=f"{path}, {member.name}")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError("cannot be read", where=path, got=error, remedy="get the archive again") from error
    missing = [name for name, part in wanted.items() if part.name not in contents]
    if missing:
        raise DataError("the archive lacks files", where=path, expected=", ".join(missing))
    return contents


def _examples(contents: list[Tensor], files: CifarSet, *, where: str) -> Arrays:
    """Split records into images and labels, and check the labels."""
    records = torch.cat(contents).view(-1, files.label_bytes + PIXELS)
    labels = records[:, files.label_bytes - 1].long()
    counts = labels.bincount(minlength=len(files.classes))
    if len(counts) > len(files.classes) or counts.min() != counts.max():
        raise DataError(
            "the labels are not those of the published set",
            where=where,
            got=f"classes 0 to {len(counts) - 1} with {counts.min()} to {counts.max()} images",
            expected=f"classes 0 to {len(files.classes) - 1} with as many images each",
            remedy="get the files again",
        )
    return Arrays(records[:, files.label_bytes :].reshape(-1, 3, SIDE, SIDE), labels)


CIFAR10 = CifarSet(
    archive=DownloadSource(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size=170_052_171,
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
    folder="cifar-10-batches-bin",
    train=(
        PublishedFile(name="data_batch_1.bin", size=30_730_000, md5="5dd7e06a14cb22eb9f671a540d1b7c25"),
        PublishedFile(name="data_batch_2.bin", size=30_730_000, md5="5ea93a67294ea407fff1d09f752e9692"),
        PublishedFile(name="data_batch_3.bin", size=30_730_000, md5="942cd6a4bcdd0dd3c604fbe906cb4421"),
        PublishedFile(name="data_batch_4.bin", size=30_730_000, md5="ae636b3ba5c66a11e91e8cb52e771fcb"),
        PublishedFile(name="data_batch_5.bin", size=30_730_000, md5="53f37980c15c3d472c316c40844f3f0d"),
    ),
    test=PublishedFile(name="test_batch.bin", size=30_730_000, md5="803d5f7f4d78ea53de84dbe85f74fb6d"),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    label_bytes=1,
    pickled=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
)

_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = CifarSet(
    archive=DownloadSource(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size=168_513_733,
        md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
    folder="cifar-100-binary",
    train=(PublishedFile(name="train.bin", size=153_700_000, md5=None),),
    test=PublishedFile(name="test.bin", size=30_740_000, md5=None),
    classes=tuple(_CIFAR100_CLASSES.split()),
    label_bytes=2,
    pickled=("cifar-100-python", "cifar-100-python.tar.gz"),
)
