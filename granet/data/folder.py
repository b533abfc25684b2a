"""Image folders: ``train/CLASS/*`` with ``test/CLASS/*``, ``val/CLASS/*`` or both. ImageNet comes this way too.

Class names are the names of the folders, labels their alphabetical order. Hidden entries are skipped, links that
lead out of the data directory are refused, and everything else in a class folder has to be an image.
"""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path

import torch

from granet.data.dataset import Files
from granet.errors import DataError

FOLDER_SPLITS = ("train", "val", "test")
"""What splits are called on disk."""


def scan_folder(root: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Return the images of each split in the folder at ``root``, by its name on disk, and the classes.

    Raises:
        DataError: a folder is missing or empty, or the splits differ in their classes.
    """
    splits = [split for split in FOLDER_SPLITS if (root / split).is_dir()]
    if "train" not in splits or len(splits) == 1:
        raise DataError(
            "not an image folder",
            where=root,
            got=f"folders {', '.join(splits)}" if splits else "none of its folders",
            expected="train/CLASS/* and test/CLASS/* or val/CLASS/*",
            remedy='for tar shards, set data.name to "tar-shards"'
            if any(root.glob("*.tar"))
            else "name the folder that holds train",
        )
    classes = _class_names(root, "train")
    return {split: _scan(root, split, classes) for split in splits}, classes


def _class_names(root: Path, split: str) -> tuple[str, ...]:
    """Return the names of the class folders of a split, sorted."""
    check_within(root / split, root)
    found = entries(root / split, root)
    for entry in found:
        if not entry.is_dir():
            raise DataError(
                "a file where only class folders belong",
                where=entry.path,
                expected=f"{split}/CLASS/IMAGE",
                remedy="sort the images into one folder per class, and remove other files",
            )
    if not found:
        raise DataError("no class folders", where=root / split, expected=f"{split}/CLASS/IMAGE")
    return tuple(entry.name for entry in found)


def _scan(root: Path, split: str, classes: tuple[str, ...]) -> Files:
    """Return the image files of a split, class by class, sorted by name."""
    names = _class_names(root, split)
    if names != classes:
        name = min(set(names) ^ set(classes))
        raise DataError(
            f"class folder {name!r} is missing",
            where=root / (split if name in classes else "train"),
            expected="the same class folders in every split",
            remedy="add it with its images, or remove it from the other splits",
        )
    paths: list[Path] = []
    counts: list[int] = []
    for name in classes:
        folder = root / split / name
        found = entries(folder, root)
        for entry in found:
            if not entry.is_file():
                raise DataError("not a file", where=entry.path, expected="an image", remedy="move or remove it")
        if not found:
            raise DataError("class folder without images", where=folder, remedy="add images, or remove the class")
        paths += [folder / entry.name for entry in found]
        counts.append(len(found))
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return Files(tuple(paths), labels)


def entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """Return what is in ``folder`` and not hidden, sorted by name."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=attrgetter("name"))
    except OSError as error:
        raise DataError("cannot be read", where=folder, got=error) from error
    for entry in entries:
        if entry.is_symlink():
            check_within(Path(entry.path), root)
    return entries


def check_within(path: Path, root: Path) -> None:
    """Raise DataError if a link leads out of the data directory."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "a link that leads out of the data directory",
            where=path,
            got=path.resolve(),
            remedy="name the real folder as the data directory, or copy the files",
        )
