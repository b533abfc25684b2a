"""Image folders: ``train/CLASS/*`` with ``test/CLASS/*``, ``val/CLASS/*`` or both. ImageNet comes this way too.

Class names are the names of the folders, labels their alphabetical order. Hidden entries are skipped, links that
lead out of the data directory are refused unless they are allowed, and everything else in a class folder has to be an
image.
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


def scan_folder(root: Path, *, follow_links: bool = False) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Return the images of each split in the folder at ``root``, by its name on disk, and the classes.

    With ``follow_links`` folders and images may be links that lead out of ``root``.

    Raises:
        DataError: a folder is missing or empty, the splits differ in their classes, or a link leads where it may not.
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
    within = None if follow_links else root
    classes = _class_names(root, "train", within)
    return {split: _scan(root, split, classes, within) for split in splits}, classes


def _class_names(root: Path, split: str, within: Path | None) -> tuple[str, ...]:
    """Return the names of the class folders of a split, sorted."""
    check_within(root / split, within)
    found = entries(root / split, within)
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


def _scan(root: Path, split: str, classes: tuple[str, ...], within: Path | None) -> Files:
    """Return the image files of a split, class by class, sorted by name."""
    names = _class_names(root, split, within)
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
        found = entries(folder, within)
        for entry in found:
            if not entry.is_file():
                raise DataError("not a file", where=entry.path, expected="an image", remedy="move or remove it")
        if not found:
            raise DataError("class folder without images", where=folder, remedy="add images, or remove the class")
        paths += [folder / entry.name for entry in found]
        counts.append(len(found))
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return Files(tuple(paths), labels)


def entries(folder: Path, within: Path | None) -> list[os.DirEntry[str]]:
    """Return what is in ``folder`` and not hidden, sorted by name.

    Raises:
        DataError: it cannot be read, or there is a link that leads to nothing, or out of ``within`` unless it is None.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=attrgetter("name"))
    except OSError as error:
        raise DataError("cannot be read", where=folder, got=error) from error
    for entry in entries:
        if entry.is_symlink():
            check_within(Path(entry.path), within)
    return entries


def check_within(path: Path, within: Path | None) -> None:
    """Check that a path leads to something, and not out of ``within`` unless that is None.

    Raises:
        DataError: it does not.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # the second for links that lead to one another
        raise DataError("a link that leads to nothing", where=path, got=error, remedy="mend or remove it") from error
    if within is not None and not target.is_relative_to(within.resolve()):
        raise DataError(
            "a link that leads out of the data directory",
            where=path,
            got=target,
            remedy="where you trust the folder, set data.follow_links to true, or give import and eval --follow-links",
        )
