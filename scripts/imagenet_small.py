"""Runs an ImageNet recipe end to end on a handful of enlarged images, and checks that nothing leaves a trace.

    python -m scripts.imagenet_small --images DIR --work runs/imagenet-small

Some images of DIR (train/CLASS/* and test/CLASS/* or val/CLASS/*) are enlarged to JPEG files of --side pixels and laid
out as ImageNet is, once in folders and once in tar shards. The recipe trains on both, once in one go and once stopped
after --stop-after steps and resumed. Then

- stopped and resumed must equal in one go, file by file and byte by byte, for folders and for shards;
- folders and shards must give the same weights, masks, buffers and optimizer state to the last bit.

Epochs are few, so the course of the recipe is compressed; what else is changed is printed. ResNet-50 at 224 takes
some seconds a step on a processor core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from granet import load_checkpoint, training
from granet.checkpoint import Checkpoint
from granet.errors import GranetError, Interrupted, UsageError
from granet.masks.mapping import density
from granet.recipe import Recipe
from granet.training import RunFolder
from scripts.pack_shards import pack

FILES = ("last.safetensors", "best.safetensors", "history.bin")
"""What a resumed run has to have in common with one that was never stopped."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training, from its beginning to its end."""

    data: str
    stopped_at: int | None
    seconds: float
    steps: int
    images_per_second: float
    density: float
    test_accuracy: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many images are taken, and how large they become."""

    classes: int
    train: int
    test: int
    side: int


def enlarge(images: Path, folder: Path, size: Size) -> None:
    """Lays out some of ``images`` in ``folder``: train/CLASS/*.jpg and val/CLASS/*.jpg."""
    other = next((split for split in ("val", "test") if (images / split).is_dir()), None)
    if other is None or not (images / "train").is_dir():
        raise UsageError("not an image folder", where=images, expected="train/CLASS/* and test/CLASS/* or val/CLASS/*")
    classes = sorted(path.name for path in (images / "train").iterdir() if path.is_dir())[: size.classes]
    for source, split, count in (("train", "train", size.train), (other, "val", size.test)):
        for name in classes:
            found = sorted(path for path in (images / source / name).iterdir() if not path.name.startswith("."))
            if len(found) < count:
                raise UsageError("too few images", where=images / source / name, got=len(found), expected=count)
            (folder / split / name).mkdir(parents=True)
            for path in found[:count]:
                with Image.open(path) as image:
                    large = image.convert("RGB").resize((size.side, size.side), Image.Resampling.BICUBIC)
                large.save(folder / split / name / f"{path.stem}.jpg", quality=90)


def run(recipe: Recipe, folder: Path, *, stop_after: int | None) -> tuple[Row, Checkpoint]:
    """Trains; with ``stop_after`` it is stopped after so many steps, and resumed.

    Raises:
        GranetError: training failed, or was over before it could be stopped.
    """
    device, begin = training.resolve_device("cpu"), time.perf_counter()
    place, asked = RunFolder(folder), itertools.count()
    stop: Callable[[], bool] = lambda: stop_after is not None and next(asked) >= stop_after  # noqa: E731
    try:
        training.train(recipe, place, device, stop=stop)
        if stop_after is not None:
            raise UsageError("training was over before it could be stopped", where="--stop-after", got=stop_after)
        stopped_at = None
    except Interrupted:
        stopped_at = load_checkpoint(place.last).step
        training.resume(place, device)
    seconds, end = time.perf_counter() - begin, load_checkpoint(place.last)
    row = Row(
        data=recipe.data.name,
        stopped_at=stopped_at,
        seconds=seconds,
        steps=end.step,
        images_per_second=end.step * recipe.training.batch_size / seconds,
        density=density(end.masks),
        test_accuracy=end.metrics["test"]["accuracy"],
        bytes=place.last.stat().st_size,
    )
    return row, end


def differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """What of the two states is not the same to the last bit."""
    found = []
    for what in ("weights", "masks", "buffers", "explored", "accumulators"):
        found += _different(what, getattr(one, what), getattr(other, what))
    for name in one.optimizer.keys() | other.optimizer.keys():
        mine, theirs = one.optimizer.get(name, {}), other.optimizer.get(name, {})
        for slot in mine.keys() | theirs.keys():
            if not _same(mine.get(slot), theirs.get(slot)):
                found.append(f"optimizer {name} {slot}")
    if one.metrics != other.metrics:
        found.append("metrics")
    return sorted(found)


def _different(what: str, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    return [f"{what} {name}" for name in mine.keys() | theirs.keys() if not _same(mine.get(name), theirs.get(name))]


def _same(mine: object, theirs: object) -> bool:
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        return mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    return mine == theirs


def compare(recipe: Recipe, images: Path, work: Path, size: Size, *, per_shard: int, stop_after: int) -> list[Row]:
    """Makes the data, trains four times, and compares.

    Args:
        recipe: but for the data.
        images: where images are taken from.
        work: a folder to make.
        size: of the data.
        per_shard: images in a shard.
        stop_after: steps.

    Raises:
        GranetError: two trainings differ that must not; what differs is named.
    """
    work.mkdir(parents=True)
    enlarge(images, work / "folder", size)
    pack(work / "folder", work / "shards", per_shard=per_shard)
    rows, ends = [], []
    for name, data in (("image-folder", "folder"), ("tar-shards", "shards")):
        varied = recipe.override({"data.name": name, "data.directory": str((work / data).absolute())})
        whole, resumed = work / f"{data}-whole", work / f"{data}-resumed"
        for folder, after in ((whole, None), (resumed, stop_after)):
            row, end = run(varied, folder, stop_after=after)
            print(json.dumps(asdict(row)), flush=True)
            rows.append(row)
            ends.append(end)
        for file in FILES:
            if (whole / file).read_bytes() != (resumed / file).read_bytes():
                raise GranetError("resuming left a trace", where=resumed / file)
    different = differences(ends[0], ends[2])
    if different:
        raise GranetError("folders and shards do not train alike", got=", ".join(different[:5]), where=work)
    return rows


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="an image folder to take images from")
    parser.add_argument("--work", type=Path, required=True, help="a folder to make for data and runs")
    parser.add_argument("--recipe", default="imagenet-resnet50-granet")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--train", type=int, default=9, help="training images of a class, one of them held out")
    parser.add_argument("--test", type=int, default=2, help="test images of a class")
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--per-shard", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stop-after", type=int, default=3, help="steps")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of the recipe")
    arguments = parser.parse_args()
    settings: dict[str, object] = {
        "method.interval": "1it",
        "training.batch_size": arguments.batch_size,
        "data.workers": arguments.workers,
    }
    settings |= dict(assignment.split("=", 1) for assignment in arguments.set)
    size = Size(classes=arguments.classes, train=arguments.train, test=arguments.test, side=arguments.side)
    try:
        published = Recipe.load(arguments.recipe)
        recipe = published.stretched(arguments.epochs).override(settings)
        for key, mine, theirs in recipe.differences(published):
            print(f"{key}: {mine}, published {theirs}")
        compare(
            recipe,
            arguments.images,
            arguments.work,
            size,
            per_shard=arguments.per_shard,
            stop_after=arguments.stop_after,
        )
    except GranetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("stopped and resumed equals in one go, byte by byte; folders and shards give the same state")
    return 0


if __name__ == "__main__":
    sys.exit(main())
