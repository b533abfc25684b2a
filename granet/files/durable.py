"""Files on disk: replaced whole and durably, or not at all, and read through a memory map."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from granet.errors import CheckpointError

# Why a file could not be written -> what to do about it.
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space: the quota is used up",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOENT: "make the folder, or bring it back",
}


def write(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Make ``data`` the content of the file at ``path``, atomically and durably.

    The bytes go to a temporary file in the same folder, ``.NAME.tmp``, reach the disk, and take the place of the
    old file in one step, which reaches the disk too. Whatever happens on the way, a crash included, ``path`` holds
    all of the old content or all of the new. A temporary that a crash left behind is removed by the next write.

    Raises:
        CheckpointError: the file could not be written; the old one is as it was.
    """
    path = Path(path)
    try:
        _replace(path, data)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        number = error.errno if isinstance(error, OSError) else None
        raise CheckpointError(
            "the file could not be written; what was there before is as it was",
            where=path,
            got=os.strerror(number) if number else error,
            remedy=_REMEDIES.get(number) if number else None,
        ) from error
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError("the file was written but may not survive a power cut", where=path, got=error) from error


def read(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The content of a regular file, uint8 [size], read-only, as a memory map that lasts as long as the array.

    Never waits: a pipe or a device is refused, not read.

    Raises:
        CheckpointError: not there, not readable, or not a regular file.
    """
    remedy = None
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                if status.st_size == 0:  # which cannot be mapped
                    return np.empty(0, np.uint8)
                return np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)
        finally:
            os.close(descriptor)
        reason = "not a regular file"
        if stat.S_ISDIR(status.st_mode):
            reason, remedy = "a folder", "name a file in it, such as last.safetensors"
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    raise CheckpointError(
        "the file cannot be read", where=os.fspath(path), got=reason, expected="a file", remedy=remedy
    )


def _replace(path: Path, data: bytes | memoryview) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    # O_EXCL: the file is new and ours, and no link leads elsewhere.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        # A second writer would have taken our temporary for a stale one and begun its own: not ours to publish.
        if not _is_ours(temporary, descriptor):
            if not path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the folder is gone")
            raise CheckpointError(
                "another process is writing the same file",
                where=path,
                remedy="let only one run at a time write to a folder",
            )
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            if _is_ours(temporary, descriptor):
                temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def _is_ours(temporary: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(temporary.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such operation; there is no other way to ask for it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
