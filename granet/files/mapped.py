"""Read files of any size through a memory map."""

from __future__ import annotations

import mmap
import os
import stat

import numpy as np
from numpy.typing import NDArray

from granet.errors import FileError


def read(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return the content of a regular file, uint8 [size], read-only, as a memory map that lasts as long as the array.

    Never waits: a pipe or a device is refused, not read.

    Raises:
        FileError: not there, not readable, or not a regular file.
    """
    remedy = None
    try:
        # O_NONBLOCK: opening a pipe without a writer would wait for one.
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
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    raise FileError("the file cannot be read", where=os.fspath(path), got=reason, expected="a file", remedy=remedy)
