"""Files as their publisher made them: known by name, size and checksum, and believed only after a check.

Checksums are MD5 because that is what the publishers of these sets give. They tell a damaged or mistaken file
from the right one; they are no defence against a forger, and nothing here needs one: the contents are read as
plain numbers of a size that is known beforehand.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from granet.data.download import DownloadSource, fetch
from granet.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of a published dataset.

    Args:
        name: its name, without ``.gz`` where the publisher compresses it.
        size: bytes, uncompressed.
        md5: of those bytes, or None where no checksum is published for this file by itself.
        source: where to get it, or None where it comes in an archive or with the package.
    """

    name: str
    size: int
    md5: str | None
    source: DownloadSource | None = None


def locate(
    names: Sequence[str],
    directory: Path,
    *,
    places: Sequence[str] = ("",),
    source: DownloadSource | None = None,
    download: bool = False,
) -> Path:
    """The path of the first of ``names`` that is a file in one of the ``places`` below ``directory``.

    With ``download``, when there is none, ``source`` is fetched into ``directory``.

    Raises:
        DataError: there is none, or the download failed.
    """
    for place in places:
        for name in names:
            path = directory / place / name
            if path.is_file():
                return path
    if download and source is not None:
        return fetch(source, directory)
    raise DataError(
        f"{names[0]} is not there" if directory.is_dir() else "no such folder",
        where=directory,
        expected=f"a folder with {' or '.join(names)}",
        remedy="name the folder that holds it"
        + (f", or allow its download from {source.url}" if source is not None else ""),
    )


def read(path: Path, file: PublishedFile) -> Tensor:
    """The contents of ``path``, unpacked if its name ends in ``.gz``, after checking that they are ``file``'s.

    Returns:
        uint8 [file.size], writable.

    Raises:
        DataError: it cannot be read, is truncated, too long, not gzip, or has another checksum.
    """
    try:
        with path.open("rb") as raw:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
            return take(stream, file, where=path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            "cannot be read",
            where=path,
            got=error,
            expected=f"{file.size} bytes of {file.name}",
            remedy="get the file again",
        ) from error


def take(stream: BinaryIO, file: PublishedFile, *, where: object) -> Tensor:
    """The rest of ``stream``, as :func:`read`; never reads more than one byte beyond ``file.size``."""
    contents = torch.empty(file.size, dtype=torch.uint8)
    view, filled = contents.numpy().data, 0
    # A decompressor may fill less than it is given; only zero means that the stream is at its end.
    while filled < file.size and (count := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += count
    check_size(filled + len(stream.read(1)), file.size, where=where)
    if file.md5 is not None:
        check_md5(hashlib.md5(view, usedforsecurity=False).hexdigest(), file.md5, where=where)
    return contents


def check_size(got: int, expected: int, *, where: object) -> None:
    """Raise DataError unless as many bytes were found (one more stands for any number more) as expected."""
    if got != expected:
        raise DataError(
            "is truncated" if got < expected else "is too long",
            where=where,
            got=f"{got} bytes" if got < expected else f"more than {expected} bytes",
            expected=f"{expected} bytes",
            remedy="get the file again",
        )


def check_md5(got: str, expected: str, *, where: object) -> None:
    """Raise DataError unless the two checksums are the same."""
    if got != expected:
        raise DataError(
            "is not the published file",
            where=where,
            got=f"md5 {got}",
            expected=expected,
            remedy="it is damaged or another file of that name; delete it and get the published one",
        )
