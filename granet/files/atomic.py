"""Write files so that they hold all of the old content or all of the new, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from granet.errors import FileError, GranetError

# Why a file could not be written -> what to do about it.
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space: the quota is used up",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOENT: "make the folder, or bring it back",
    errno.ENOTDIR: "choose a folder",
}


def write(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Make ``data`` the content of the file at ``path``, atomically and durably.

    The bytes go to a temporary file in the same folder, ``.NAME.tmp``, reach the disk, and take the place of the
    old file in one step, which reaches the disk too. Whatever happens on the way, a crash included, ``path`` holds
    all of the old content or all of the new. A temporary that a crash left behind is removed by the next write.

    Raises:
        FileError: the file could not be written; the old one is as it was.
    """
    path = Path(path)
    with file_errors(path, "the file could not be written; what was there before is as it was"):
        _replace(path, data)
    with file_errors(path, "the file was written but may not survive a power cut"):
        sync_folder(path.parent)


@contextlib.contextmanager
def file_errors(path: Path, what: str) -> Iterator[None]:
    """Turn errors of the system while writing ``path`` into errors for the user.

    Raises:
        FileError: ``what`` happened to ``path``, the system's reason, and a remedy where one is known.
    """
    try:
        yield
    except GranetError:  # some are ValueErrors too
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else error
        raise FileError(what, where=path, got=reason, remedy=_REMEDIES.get(number or 0)) from error


def sync_folder(folder: Path) -> None:
    """Return once renames and removals in ``folder`` are on disk.

    Raises:
        OSError: they may not be.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such operation; there is no other way to ask for it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


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
            raise FileError(
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
