"""WebDataset shards: a folder of plain tar archives whose members go together by name.

    DIR/train-000000.tar ... train-001023.tar     or with anything in front: imagenet1k-train-0000.tar
    DIR/val-000000.tar ...                         val, or validation
    DIR/test-000000.tar ...
    DIR/classes.txt                                optional: the name of class 0 on the first line, and so on

Splits are those of image folders: with train and one other, that is the test split and validation is held out of
train; with all three each is what it says. Numbers begin at 0 or 1 and leave none out; ``train-00000-of-01024.tar``
also says how many there are, so that the last ones cannot be missed. Any other archive in the folder is an error,
any other file is left alone.

In an archive an example is all members that have the same name up to the first dot of its last component, next to
each other: one image (``KEY.jpg``, .jpeg, .png, .webp, .bmp, .gif, .ppm, .tif, .tiff) and its label, ``KEY.cls`` (a
number or the name of a class) or, where there is none, ``KEY.json`` with the same under "label". What else an example
has, such as a caption or ``KEY.depth.png``, is left alone, and so are hidden members. A number means a line of
classes.txt from 0 on; without that file the classes are the numbers, or the names in order, of the training images.

Examples come in the order of the archives' numbers and, within one, in that of its members. What trains in which step
is then settled as for files (granet.data.order): the headers are read once, and every image is reached by itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from granet.data import shard_labels as labels
from granet.data import tar
from granet.data.dataset import Dataset
from granet.data.folder import check_within, entries
from granet.data.image_dataset import LAYOUTS, dataset_of
from granet.data.shard_images import MAX_IMAGE, Members, Shard, described, open_shard, told
from granet.data.shard_labels import Label
from granet.errors import DataError

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"})
LABELS = ("cls", "json")

_SPLIT_WORDS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_NAME = re.compile(
    r"(?P<front>(?:.*[-_.])?(?P<split>train|val|validation|test)[-_.])(?P<number>\d{1,15})(?P<of>-of-(?P<total>\d{1,15}))?\.tar",
    re.ASCII,
)
_ARCHIVE = re.compile(r".*\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
_THREADS = 8


def open_shards(
    name: str, directory: Path, *, validation: float, seed: int, image_size: int | None, residency: str
) -> Dataset:
    """The dataset in a folder of shards; arguments are those of :func:`granet.data.folder.open_folder`.

    Raises:
        DataError: a shard is missing, truncated, damaged, compressed or empty; an example lacks its image or label, or
            comes twice; a label is none of the classes; an image cannot be read.
    """
    root = directory.absolute()
    if not root.is_dir():
        raise DataError("no such folder", where=directory, remedy="name the folder that holds the shards")
    paths = _shards(root)
    found = {split: _scan_all(paths[split]) for split in LAYOUTS if split in paths}
    file = root / labels.CLASSES_FILE
    if file.exists():
        check_within(file, root)
        classes = labels.read_classes(file)
    else:
        train = found["train"]
        classes = labels.derive_classes(train.labels, len(train.labels), where=root)
    parts = {split: part.members(classes) for split, part in found.items()}
    empty = torch.bincount(parts["train"].labels, minlength=len(classes)).eq(0).nonzero()
    if len(empty):
        raise DataError(
            f"class {classes[int(empty[0])]!r} has no training images", where=root, remedy=f"see {labels.CLASSES_FILE}"
        )
    return dataset_of(
        name,
        directory,
        parts,
        classes,
        validation=validation,
        seed=seed,
        image_size=image_size,
        residency=residency,
    )


@dataclass(frozen=True)
class _Numbered:
    """A shard by its name."""

    path: Path
    split: str
    front: str
    number: int
    width: int
    total: int | None

    def sibling(self, number: int) -> str:
        """What the shard of another number is called."""
        of = "" if self.total is None else self.path.name[self.path.name.rindex("-of-") : -len(".tar")]
        return f"{self.front}{number:0{self.width}d}{of}.tar"


def _shards(root: Path) -> dict[str, list[Path]]:
    """The shards of each split, in order."""
    shards: dict[str, list[_Numbered]] = {}
    for entry in entries(root, root):
        if not _ARCHIVE.fullmatch(entry.name):
            continue
        match = _NAME.fullmatch(entry.name)
        if match is None or not entry.is_file():
            compressed = not entry.name.lower().endswith(".tar")
            raise DataError(
                "a compressed archive, in which no image can be reached by itself"
                if compressed
                else "not a shard of a split",
                where=entry.path,
                expected="train-000000.tar and so on, and val- or test- likewise",
                remedy="decompress it; images are compressed already" if compressed else "rename or move it",
            )
        split = _SPLIT_WORDS[match["split"]]
        total = int(match["total"]) if match["of"] else None
        number = match["number"]
        shard = _Numbered(Path(entry.path), split, match["front"], int(number), len(number), total)
        shards.setdefault(split, []).append(shard)
    if "train" not in shards or len(shards) == 1:
        folders = [split for split in LAYOUTS if (root / split).is_dir()]
        raise DataError(
            "not a folder of tar shards",
            where=root,
            got=f"shards of {', '.join(sorted(shards))}" if shards else "no shard",
            expected="train-000000.tar and so on, with val-000000.tar or test-000000.tar and so on",
            remedy='for images in folders, set data.name to "image-folder"' if folders else None,
        )
    return {split: _in_sequence(part, root) for split, part in shards.items()}


def _in_sequence(shards: list[_Numbered], root: Path) -> list[Path]:
    """The paths of a split's shards by number, once none is missing."""
    shards = sorted(shards, key=lambda shard: shard.number)
    first = shards[0]
    for shard in shards:
        if (shard.front, shard.total) != (first.front, first.total):
            raise DataError(
                "the shards of a split belong to two sets",
                where=root,
                got=f"{first.path.name} and {shard.path.name}",
                remedy="keep one of them",
            )
    for before, after in pairwise(shards):
        if before.number == after.number:
            raise DataError("two shards of one number", where=root, got=f"{before.path.name} and {after.path.name}")
    # Counting from 0 is the custom, from 1 is tolerated; that is told by the first number, or the last there is to be.
    start = int(first.number == 1) if first.total is None else int(shards[-1].number == first.total)
    last = shards[-1].number if first.total is None else first.total - 1 + start
    if shards[-1].number > last:
        raise DataError(
            "a number beyond those there are to be", where=shards[-1].path, expected=f"{first.total} shards"
        )
    numbers = [start - 1, *(shard.number for shard in shards), last + 1]
    missing = next((before + 1 for before, after in pairwise(numbers) if after - before > 1), None)
    if missing is not None:
        more = last - start - len(shards)
        raise DataError(
            "a shard is missing" + (f", and {more} more" if more else ""),
            where=root / first.sibling(missing),
            remedy="get it, or number the shards that there are without a gap",
        )
    return [shard.path for shard in shards]


@dataclass(frozen=True, eq=False)
class _Split:
    """What the headers of a split's shards tell: places as :class:`Members` has them, and labels as written."""

    shards: tuple[Shard, ...]
    places: NDArray[np.int64]
    labels: list[Label]

    def members(self, classes: tuple[str, ...]) -> Members:
        """The examples with their labels settled."""
        numbers = labels.indices(self.labels, classes, self.told)
        return Members(self.shards, self.places, torch.tensor(numbers, dtype=torch.int64))

    def told(self, position: int) -> str:
        shard, offset, _ = self.places[position].tolist()
        descriptor = open_shard(self.shards[shard].path)
        try:
            return told(descriptor, self.shards[shard], offset)
        finally:
            os.close(descriptor)


def _scan_all(paths: list[Path]) -> _Split:
    """The examples in the shards. Several are read at once, since most of it is waiting for the disk."""
    shards, places, found = [], [], []
    pool = ThreadPoolExecutor(min(_THREADS, len(paths)))
    try:
        for number, (shard, where, marks) in enumerate(pool.map(_scan, paths)):
            shards.append(shard)
            places.append(np.column_stack([np.full(len(where), number), where]))
            found += marks
    finally:
        pool.shutdown(cancel_futures=True)
    return _Split(tuple(shards), np.concatenate(places).astype(np.int64), found)


def _scan(path: Path) -> tuple[Shard, NDArray[np.int64], list[Label]]:
    """The shard as it is, and for each example where its image lies (int64 [N, 2], offset and size) and its label."""
    try:
        descriptor = open_shard(path)
    except OSError as error:
        raise DataError("cannot be read", where=path, got=error) from error
    try:
        shard = described(descriptor, str(path))
        places, found = [], []
        for place, label in _examples(tar.FileWindow(descriptor, shard.size), path):
            places.append(place)
            found.append(label)
    except OSError as error:
        raise DataError("cannot be read", where=path, got=error) from error
    finally:
        os.close(descriptor)
    if not places:
        raise DataError("a shard without images", where=path, remedy="remove it, and number the others without a gap")
    return shard, np.array(places, np.int64), found


def _examples(window: tar.FileWindow, path: Path) -> Iterator[tuple[tuple[int, int], Label]]:
    """Offset and size of each image, and its label."""
    keys: set[str] = set()
    same: dict[Label, Label] = {}  # a text is kept once, however many examples have it
    for key, group in groupby(_relevant(window, path), key=lambda found: found[0]):
        parts: dict[str, tar.Member] = {}
        for _, kind, member in group:
            other = parts.setdefault("image" if kind in IMAGES else kind, member)
            if other is not member:
                raise DataError(
                    "an example with two images" if kind in IMAGES else "an example with two labels of a kind",
                    where=_told(path, member),
                    got=f"{other.name!r} besides",
                    remedy="give each example a name of its own, up to the first dot",
                )
        image = parts.get("image")
        written = next((kind for kind in LABELS if kind in parts), None)
        first = next(iter(parts.values()))
        if key in keys:
            raise DataError(
                "the name of an example comes twice in a shard",
                where=_told(path, first),
                remedy="give each example a name of its own, and put its members next to each other",
            )
        keys.add(key)
        if image is None or written is None:
            raise DataError(
                "an image without a label" if image else "a label without an image" if written else "no example",
                where=_told(path, first),
                expected=f"next to each other an image, such as {key}.jpg, and {key}.cls or {key}.json",
                remedy="pack the shard again; names of examples end at their first dot",
            )
        if not 0 < image.size <= MAX_IMAGE:
            raise DataError(
                "not the size of an image",
                where=_told(path, image),
                got=f"{image.size} bytes",
                expected=f"1 to {MAX_IMAGE}",
            )
        label = _label(window, written, parts[written], _told(path, parts[written]))
        yield (image.offset, image.size), same.setdefault(label, label)


def _told(path: Path, member: tar.Member) -> str:
    return f"{path}, member {member.name!r}"


def _relevant(window: tar.FileWindow, path: Path) -> Iterator[tuple[str, str, tar.Member]]:
    """Images and labels, but for hidden ones: the key of their example, their kind, and where they are.

    A name with more dots, as in KEY.depth.png, is something else that an example has; where there is no such example
    it stands for a mistake and comes too.
    """
    for key, group in groupby(tar.members(window, path), key=lambda member: _key(member.name)):
        found = [(member.name[len(key) + 1 :].lower(), member) for member in group]
        images_and_labels = [(kind, member) for kind, member in found if kind in IMAGES or kind in LABELS]
        doubtful = [(kind, member) for kind, member in found if kind.rpartition(".")[2] in (*IMAGES, *LABELS)]
        if key and not key.endswith("/"):
            for kind, member in images_and_labels or doubtful[:1]:
                yield key, kind, member


def _key(name: str) -> str:
    """The name of a member up to the first dot of its last component."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _label(window: tar.FileWindow, kind: str, member: tar.Member, where: str) -> Label:
    limit = labels.MAX_CLS if kind == "cls" else labels.MAX_JSON
    expected = "a whole number or the name of a class" + (' under "label"' if kind == "json" else "")
    if member.size > limit:
        raise DataError("too long for a label", where=where, got=f"{member.size} bytes", expected=f"at most {limit}")
    data = window.read(member.offset, member.size)
    try:
        return labels.from_cls(data) if kind == "cls" else labels.from_json(data)
    except ValueError as error:
        raise DataError("not a label", where=where, got=error, expected=expected) from error
