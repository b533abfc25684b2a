"""Files as their publisher made them: downloaded, found by name, and checked by size and checksum before use.

Checksums are MD5 because that is what the publishers of these sets give. They tell a damaged or mistaken file
from the right one; they are no defence against a forger, and nothing here needs one: the contents are read as
plain numbers of a size that is known beforehand.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast
from urllib.request import urlopen

import torch
from torch import Tensor

from granet.errors import DataError

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True, kw_only=True)
class DownloadSource:
    """Where a publisher offers a file.

    Args:
        url: https; its last part is the file's name.
        size: bytes.
        md5: of those bytes.
    """

    url: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


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
    folders: Sequence[str] = ("",),
    source: DownloadSource | None = None,
    download: bool = False,
) -> Path:
    """Return the path of the first of ``names`` that is a file in one of the ``folders`` below ``directory``.

    With ``download``, when there is none, ``source`` is fetched into ``directory``.

    Raises:
        DataError: there is none, or the download failed.
    """
    for folder in folders:
        for name in names:
            path = directory / folder / name
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


def fetch(source: DownloadSource, directory: Path) -> Path:
    """Download ``source`` into ``directory``, which is made if need be, and return the new file's path.

    The file gets its name only once it is whole, checked and on disk, so that a download that fails leaves
    nothing behind. At most one byte more than ``source.size`` is ever read.

    Raises:
        DataError: the site cannot be reached, sends something else, or the file cannot be written.
    """
    path = directory / source.name
    temporary = directory / f".{source.name}.{secrets.token_hex(4)}.tmp"  # two processes may fetch the same file
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Not a file of ``tempfile``, which only its owner could read: data are often shared.
        with temporary.open("xb") as file:
            try:
                _download(source, file, directory)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            "the download failed",
            where=source.url,
            got=error,
            remedy=f"check the network and the disk, or get {source.name} elsewhere and put it into {directory}",
        ) from error
    return path


def _download(source: DownloadSource, file: IO[bytes], directory: Path) -> None:
    """Write what the site sends, and raise DataError unless it is the published file."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    # Every URL is a constant of this package and https: no file: or other scheme can get here.
    with urlopen(source.url, timeout=TIMEOUT) as response:  # noqa: S310
        while size <= source.size and (chunk := response.read(min(CHUNK, source.size + 1 - size))):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    if (size, digest.hexdigest()) != (source.size, source.md5):
        raise DataError(
            "the publisher's site sent another file",
            where=source.url,
            got=f"{size} bytes, md5 {digest.hexdigest()}",
            expected=f"{source.size} bytes, md5 {source.md5}",
            remedy=f"try again, or get {source.name} elsewhere and put it into {directory}",
        )


def read(path: Path, file: PublishedFile) -> Tensor:
    """Return the contents of ``path``, unpacked if its name ends in ``.gz``, after checking that they are ``file``'s.

    Returns:
        uint8 [file.size], writable.

    Raises:
        DataError: it cannot be read, is truncated, too long, not gzip, or has another checksum.
    """
    try:
        with path.open("rb") as raw:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
            return read_stream(stream, file, where=path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            "cannot be read",
            where=path,
            got=error,
            expected=f"{file.size} bytes of {file.name}",
            remedy="get the file again",
        ) from error


def read_stream(stream: BinaryIO, file: PublishedFile, *, where: object) -> Tensor:
    """Return the rest of ``stream``, as :func:`read`; never reads more than one byte beyond ``file.size``."""
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
    """Raise DataError unless ``got`` bytes are as many as expected; one byte more means any number more."""
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
