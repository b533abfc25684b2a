"""Getting a published file from its publisher."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from granet.errors import DataError

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True, kw_only=True)
class DownloadSource:
    """Where a publisher offers a file, and what must arrive from there.

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
        # Not a file of ``tempfile``, which nobody but its owner could read: data are often shared.
        with temporary.open("xb") as file:
            try:
                size, md5 = _copy(source, file)
                if (size, md5) != (source.size, source.md5):
                    raise DataError(
                        "the publisher's site sent another file",
                        where=source.url,
                        got=f"{size} bytes, md5 {md5}",
                        expected=f"{source.size} bytes, md5 {source.md5}",
                        remedy=f"try again, or get {source.name} elsewhere and put it into {directory}",
                    )
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


def _copy(source: DownloadSource, file: IO[bytes]) -> tuple[int, str]:
    """Write what the site sends, up to one byte more than expected; return the count and the MD5."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    # Every URL is a constant of this package and https: no file: or other scheme can get here.
    with urlopen(source.url, timeout=TIMEOUT) as response:  # noqa: S310
        while size <= source.size and (chunk := response.read(min(CHUNK, source.size + 1 - size))):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
