"""Tar shards for tests, sound and forged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

Member = tuple[str, bytes]


def picture(level: int = 0, size: int = 8, kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), level, np.uint8)).save(file, kind)
    return file.getvalue()


def examples(labels: Iterable[object], start: int = 0) -> list[Member]:
    """An image and a .cls member for each label."""
    found: list[Member] = []
    for number, label in enumerate(labels, start):
        found += [(f"{number:04d}.cls", str(label).encode()), (f"{number:04d}.png", picture(number))]
    return found


def header(name: str, size: int, kind: bytes = b"0") -> bytearray:
    """A header block of ustar; forge it, then ``sealed``."""
    block = bytearray(512)
    block[:100] = name.encode().ljust(100, b"\0")
    block[124:136] = b"%011o\0" % size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    return block


def sealed(block: bytearray) -> bytes:
    """The block with the checksum that belongs to it."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def raw(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """A member as it stands in an archive."""
    return sealed(header(name, len(data), kind)) + data + bytes(-len(data) % 512)


END = bytes(1024)


def archive(members: Iterable[Member]) -> bytes:
    """A sound archive."""
    return b"".join(raw(name, data) for name, data in members) + END


def write_shards(root: Path, **shards: bytes | list[Member]) -> Path:
    """``root`` with archives; train_0=[...] is train-0.tar."""
    root.mkdir(exist_ok=True)
    for name, content in shards.items():
        data = content if isinstance(content, bytes) else archive(content)
        (root / f"{name.replace('_', '-')}.tar").write_bytes(data)
    return root


def by_tarfile(members: Iterable[Member], **settings: object) -> bytes:
    """An archive as Python's tarfile writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **settings) as tar:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1234567890.25  # type: ignore[assignment]
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()
