"""Image folders: ``train/CLASS/*`` beside ``test/CLASS/*``, ``val/CLASS/*`` or both. ImageNet comes this way too.

    train and test          validation is held out of train
    train and val           val is the test split, as ImageNet's has no public labels but these; held out likewise
    train, val and test     each is what it says, and nothing is held out

Class names are the names of the folders, labels their alphabetical order. Hidden entries are skipped, links that
lead out of the data directory are refused, and everything else in a class folder has to be an image.
"""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path

import torch

from granet.data.dataset import Dataset, Files
from granet.data.image_dataset import LAYOUTS, dataset_of
from granet.errors import DataError


def open_folder(
    name: str, directory: Path, *, validation: float, seed: int, image_size: int | None, residency: str
) -> Dataset:
    """The dataset in an image folder, in RGB, with ImageNet's mean and standard deviation.

    Args:
        name: what to call it.
        directory: the folder with ``train`` and the others in it.
        validation: the share of ``train`` to hold out, where there are not all three folders.
        seed: keys what is held out.
        image_size: height and width in pixels that networks see; None for the images' own, if they share one.
        residency: "resident" decodes everything now, each image as evaluation sees it; "streaming" nothing; "auto"
            decodes if all images have that size and fit in ``RESIDENT_BYTES``.

    Raises:
        DataError: a folder is missing or empty, the splits differ in their classes, an image cannot be read.
    """
    root = directory.absolute()
    if not root.is_dir():
        raise DataError("no such folder", where=directory, remedy="name the folder that holds train")
    splits = [split for split in LAYOUTS if (root / split).is_dir()]
    if "train" not in splits or len(splits) == 1:
        raise DataError(
            "not an image folder",
            where=directory,
            got=f"folders {', '.join(splits)}" if splits else "none of its folders",
            expected="train/CLASS/* and test/CLASS/* or val/CLASS/*",
            remedy='for tar shards, set data.name to "tar-shards"'
            if any(root.glob("*.tar"))
            else "name the folder that holds train",
        )
    classes = _class_names(root, "train")
    files = {split: _scan(root, split, classes) for split in splits}
    return dataset_of(
        name,
        directory,
        files,
        classes,
        validation=validation,
        seed=seed,
        image_size=image_size,
        residency=residency,
    )


def _class_names(root: Path, split: str) -> tuple[str, ...]:
    """The class folders of a split, by name."""
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
    """The image files of a split, class by class, by name."""
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
    """What is in ``folder``, by name, less what is hidden."""
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
    """Raises DataError when a link leads out of the data directory."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "a link that leads out of the data directory",
            where=path,
            got=path.resolve(),
            remedy="name the real folder as the data directory, or copy the files",
        )
