"""Pack an image folder into WebDataset shards that granet, and other programs, read.

    python -m scripts.pack_shards FOLDER SHARDS --per-shard 1000

``FOLDER/train/CLASS/*`` becomes ``SHARDS/train-000000.tar`` and so on, likewise val and test; ``SHARDS/classes.txt``
has the names of the classes. Files are packed as they are, in the order in which an image folder has them, so that
training on either is the same to the last bit.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

SPLITS = ("train", "val", "test")


def pack(folder: Path, shards: Path, *, per_shard: int) -> dict[str, int]:
    """Pack ``folder``, and return how many shards each split has."""
    shards.mkdir(parents=True)
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    classes = _visible(folder / "train")
    (shards / "classes.txt").write_text("".join(f"{name.name}\n" for name in classes), encoding="utf-8")
    counts = {}
    for split in splits:
        examples = [
            (path, label) for label, name in enumerate(classes) for path in _visible(folder / split / name.name)
        ]
        starts = range(0, len(examples), per_shard)
        counts[split] = len(starts)
        for number, start in enumerate(starts):
            with tarfile.open(shards / f"{split}-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
                for index, (path, label) in enumerate(examples[start : start + per_shard], start):
                    key = f"{index:08d}"
                    _add(shard, f"{key}.cls", str(label).encode())
                    _add(shard, f"{key}{path.suffix.lower()}", path.read_bytes())
    return counts


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner and time stay zero, so that equal images make equal bytes
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def main() -> None:
    """Parse the command line and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds train/CLASS/* and the others")
    parser.add_argument("shards", type=Path, help="the folder to make")
    parser.add_argument("--per-shard", type=int, default=1000, help="images in a shard")
    arguments = parser.parse_args()
    if arguments.per_shard < 1:
        parser.error("--per-shard is at least 1")
    if not (arguments.folder / "train").is_dir():
        parser.error(f"{arguments.folder} has no folder called train")
    if arguments.shards.exists():
        parser.error(f"{arguments.shards} already exists")
    for split, count in pack(arguments.folder, arguments.shards, per_shard=arguments.per_shard).items():
        print(f"{split}: {count} shards")


if __name__ == "__main__":
    main()
