"""WebDataset shards: a folder of plain tar archives whose members go together by name.

    DIR/train-000000.tar ... train-001023.tar     or with anything in front: imagenet1k-train-0000.tar
    DIR/val-000000.tar ...                         val, or validation
    DIR/test-000000.tar ...
    DIR/classes.txt                                optional: the name of class 0 on the first line, and so on

Splits are those of image folders. Numbers begin at 0 or 1 and leave none out; ``train-00000-of-01024.tar``
also says how many there are, so that the last ones cannot be missed. Any other archive in the folder is an error,
any other file is ignored.

In an archive an example is all members that have the same name up to the first dot of its last component, next to
each other: one image (``KEY.jpg``, .jpeg, .png, .webp, .bmp, .gif, .ppm, .tif, .tiff) and its label, ``KEY.cls`` (a
number or the name of a class) or, where there is none, ``KEY.json`` with the same under "label". What else an example
has, such as a caption or ``KEY.depth.png``, is ignored, and so are hidden members. A number means a line of
classes.txt from 0 on; without that file the classes are the numbers, or the names in order, of the training images.

Examples come in the order of the archives' numbers and, within one, in that of its members. The
order of training is then that of files: the headers are read once, and every image is reached by its offset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from granet.data import tar
from granet.data.folder import FOLDER_SPLITS, check_within, entries
from granet.data.shard_images import Shard, ShardImages, ShardReader, open_shard, stat_shard
from granet.data.shard_labels import (
    CLASSES_FILE,
    MAX_LABEL_BYTES,
    Label,
    derive_classes,
    label_indices,
    parse_label,
    read_classes,
)
from granet.errors import DataError

MAX_IMAGE = 1 << 28
"""Bytes of an image file; they are read at once."""

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"})

_KNOWN = IMAGES | MAX_LABEL_BYTES.keys()

_SPLIT_WORDS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_NAME = re.compile(
    r"(?P<front>(?:.*[-_.])?(?P<split>train|val|validation|test)[-_.])(?P<number>\d{1,15})(?P<of>-of-(?P<total>\d{1,15}))?\.tar",
    re.ASCII,
)
_ARCHIVE = re.compile(r".*\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
_THREADS = 8


def scan_shards(root: Path, *, follow_links: bool = False) -> tuple[dict[str, ShardImages], tuple[str, ...]]:
    """Return the images of each split in the folder at ``root``, by its name on disk, and the classes.

    With ``follow_links`` shards may be links that lead out of ``root``.

    Raises:
        DataError: a shard is missing, truncated, damaged, compressed or empty; an example lacks its image or label, or
            comes twice; a label is none of the classes.
    """
    within = None if follow_links else root
    paths = _shard_paths(root, within)
    found = {split: _scan_all(paths[split]) for split in FOLDER_SPLITS if split in paths}
    file = root / CLASSES_FILE
    if file.exists():
        check_within(file, within)
        classes = read_classes(file)
    else:
        labels = found["train"].labels
        classes = derive_classes(labels, len(labels), where=root)
    splits = {split: _resolved(scanned, classes) for split, scanned in found.items()}
    empty = torch.bincount(splits["train"].labels, minlength=len(classes)).eq(0).nonzero()
    if len(empty):
        raise DataError(
            f"class {classes[int(empty[0])]!r} has no training images", where=root, remedy=f"see {CLASSES_FILE}"
        )
    return splits, classes


class _Named(NamedTuple):
    """A shard, and the parts of its name: what precedes the number, and how many shards the split has, if it says."""

    number: int
    front: str
    total: int | None
    name: re.Match[str]


def _shard_paths(root: Path, within: Path | None) -> dict[str, list[Path]]:
    """Return the shards of each split, in order."""
    shards: dict[str, list[_Named]] = {}
    for entry in entries(root, within):
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
                expected="train-000000.tar and so on, and the same for val or test",
                remedy="decompress it; images are compressed already" if compressed else "rename or move it",
            )
        total = int(match["total"]) if match["of"] else None
        shard = _Named(int(match["number"]), match["front"], total, match)
        shards.setdefault(_SPLIT_WORDS[match["split"]], []).append(shard)
    if "train" not in shards or len(shards) == 1:
        folders = [split for split in FOLDER_SPLITS if (root / split).is_dir()]
        raise DataError(
            "not a folder of tar shards",
            where=root,
            got=f"shards of {', '.join(sorted(shards))}" if shards else "no shard",
            expected="train-000000.tar and so on, with val-000000.tar or test-000000.tar and so on",
            remedy='for images in folders, set data.name to "image-folder"' if folders else None,
        )
    return {split: _in_sequence(part, root) for split, part in shards.items()}


def _in_sequence(shards: list[_Named], root: Path) -> list[Path]:
    """Return the paths of a split's shards by number, after checking that none is missing."""
    shards = sorted(shards, key=lambda shard: shard.number)
    first = shards[0]
    for shard in shards:
        if (shard.front, shard.total) != (first.front, first.total):
            raise DataError(
                "the shards of a split belong to two sets",
                where=root,
                got=f"{first.name.string} and {shard.name.string}",
                remedy="keep one of them",
            )
    for before, after in pairwise(shards):
        if before.number == after.number:
            raise DataError(
                "two shards with the same number", where=root, got=f"{before.name.string} and {after.name.string}"
            )
    # Counting from 0 is the convention, from 1 is tolerated: the first number says which, or the last one expected.
    start = int(first.number == 1) if first.total is None else int(shards[-1].number == first.total)
    last = shards[-1].number if first.total is None else first.total - 1 + start
    if shards[-1].number > last:
        raise DataError(
            "a number beyond the last that the names announce",
            where=root / shards[-1].name.string,
            expected=f"{first.total} shards",
        )
    numbers = [start - 1, *(shard.number for shard in shards), last + 1]
    missing = next((before + 1 for before, after in pairwise(numbers) if after - before > 1), None)
    if missing is not None:
        more = last - start - len(shards)
        sibling = f"{first.front}{missing:0{len(first.name['number'])}d}{first.name['of'] or ''}.tar"
        raise DataError(
            "a shard is missing" + (f", and {more} more" if more else ""),
            where=root / sibling,
            remedy="get it, or number the shards that there are without a gap",
        )
    return [root / shard.name.string for shard in shards]


class _Scanned(NamedTuple):
    """What the headers of a split's shards say: locations as :class:`ShardImages` has them, labels as written."""

    shards: tuple[Shard, ...]
    locations: NDArray[np.int64]
    labels: list[Label]


def _resolved(scanned: _Scanned, classes: tuple[str, ...]) -> ShardImages:
    """Return the examples with their labels as indices into ``classes``."""
    shards, locations, labels = scanned
    numbers = label_indices(labels, classes, ShardReader(shards, locations).member)
    return ShardImages(shards, locations, torch.tensor(numbers, dtype=torch.int64))


def _scan_all(paths: list[Path]) -> _Scanned:
    """Scan the shards of a split, several at once, since most of it is waiting for the disk."""
    shards, locations, labels = [], [], []
    pool = ThreadPoolExecutor(min(_THREADS, len(paths)))
    try:
        for number, (shard, images, written) in enumerate(pool.map(_scan, paths)):
            shards.append(shard)
            locations.append(np.column_stack([np.full(len(images), number), images]))
            labels += written
    finally:
        pool.shutdown(cancel_futures=True)
    return _Scanned(tuple(shards), np.concatenate(locations).astype(np.int64), labels)


def _scan(path: Path) -> tuple[Shard, NDArray[np.int64], list[Label]]:
    """Return the shard as it is, and for each example where its image is (int64 [N, 2], offset and size) and its label.

    Raises:
        DataError: it cannot be read, or is not a sound shard with images.
    """
    try:
        descriptor = open_shard(path)
        try:
            shard = stat_shard(descriptor, str(path))
            examples = list(_examples(tar.FileWindow(descriptor, shard.size), path))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError("cannot be read", where=path, got=error) from error
    if not examples:
        raise DataError("a shard without images", where=path, remedy="remove it, and number the others without a gap")
    return shard, np.array([image for image, _ in examples], np.int64), [label for _, label in examples]


def _examples(window: tar.FileWindow, path: Path) -> Iterator[tuple[tuple[int, int], Label]]:
    """Yield offset and size of each image, and its label."""
    keys: set[str] = set()
    interned: dict[Label, Label] = {}  # one object for a text, however many examples have it
    for key, group in groupby(_relevant(window, path), key=lambda found: found[0]):
        parts: dict[str, tar.Member] = {}
        for _, extension, member in group:
            other = parts.setdefault("image" if extension in IMAGES else extension, member)
            if other is not member:
                raise DataError(
                    "an example with two images" if extension in IMAGES else "an example with two labels of a kind",
                    where=_member(path, member),
                    got=f"also {other.name!r}",
                    remedy="give each example a name of its own, up to the first dot",
                )
        image = parts.get("image")
        written = next((extension for extension in MAX_LABEL_BYTES if extension in parts), None)
        first = next(iter(parts.values()))
        if key in keys:
            raise DataError(
                "the name of an example comes twice in a shard",
                where=_member(path, first),
                remedy="give each example a name of its own, and put its members next to each other",
            )
        keys.add(key)
        if image is None or written is None:
            raise DataError(
                "an image without a label" if image else "a label without an image" if written else "no example",
                where=_member(path, first),
                expected=f"next to each other an image, such as {key}.jpg, and {key}.cls or {key}.json",
                remedy="pack the shard again; names of examples end at their first dot",
            )
        if not 0 < image.size <= MAX_IMAGE:
            raise DataError(
                "not the size of an image",
                where=_member(path, image),
                got=f"{image.size} bytes",
                expected=f"1 to {MAX_IMAGE}",
            )
        label = _read_label(window, written, parts[written], _member(path, parts[written]))
        yield (image.offset, image.size), interned.setdefault(label, label)


def _member(path: Path, member: tar.Member) -> str:
    return f"{path}, member {member.name!r}"


def _relevant(window: tar.FileWindow, path: Path) -> Iterator[tuple[str, str, tar.Member]]:
    """Yield images and labels that are not hidden: the key of their example, their extension, and the member.

    A name with more dots, as in KEY.depth.png, is another part of an example; where the example has neither image nor
    label it is taken for a mistake and yielded too.
    """
    for key, group in groupby(tar.members(window, path), key=lambda member: _key(member.name)):
        found = [(member.name[len(key) + 1 :].lower(), member) for member in group]
        known = [(extension, member) for extension, member in found if extension in _KNOWN]
        doubtful = [(extension, member) for extension, member in found if extension.rpartition(".")[2] in _KNOWN]
        if key and not key.endswith("/"):
            for extension, member in known or doubtful[:1]:
                yield key, extension, member


def _key(name: str) -> str:
    """Return the name of a member up to the first dot of its last component."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _read_label(window: tar.FileWindow, extension: str, member: tar.Member, where: str) -> Label:
    limit = MAX_LABEL_BYTES[extension]
    if member.size > limit:
        raise DataError("too long for a label", where=where, got=f"{member.size} bytes", expected=f"at most {limit}")
    try:
        return parse_label(extension, window.read(member.offset, member.size))
    except ValueError as error:
        expected = "a whole number or the name of a class" + (' under "label"' if extension == "json" else "")
        raise DataError("not a label", where=where, got=error, expected=expected) from error
