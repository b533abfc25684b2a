"""JSON Lines: files of one JSON object a line, to which a run appends."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from granet.files import atomic

MOST_BYTES = 256 * 2**20
LONGEST_LINE = 2**20

_Taken = TypeVar("_Taken")


def append(path: Path, line: Mapping[str, object], *, failed: str) -> None:
    """Append a line to a file, which is made if need be.

    Raises:
        FileError: it cannot be written; its message is ``failed``.
    """
    with atomic.file_errors(path, failed), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path, take: Callable[[dict[str, Any]], _Taken | None]) -> tuple[list[_Taken] | None, str | None]:
    """Parse each line with ``take``; return the results that are not None, and a message if the file is unusable.

    In the latter case the results are None; for a missing file both are. An incomplete last line, which is being
    written or was cut short by a kill, is left out. ``take`` raises ValueError for an object that no run writes.
    """
    found: list[_Taken] = []
    try:
        # O_NONBLOCK: opening a pipe without a writer would wait for one.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None, f"{path.name} is not a file"
            if status.st_size > MOST_BYTES:
                return None, f"{path.name} has more than {MOST_BYTES // 2**20} MiB, and was not read"
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) == LONGEST_LINE:
                        return None, f"{path.name} is damaged: line {number} is too long"
                    break
                try:
                    entry = json.loads(line)
                    if not isinstance(entry, dict):
                        raise TypeError
                    taken = take(entry)
                except (ValueError, TypeError, RecursionError):
                    return None, f"{path.name} is damaged: line {number} is not what a run writes"
                if taken is not None:
                    found.append(taken)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{path.name} cannot be read: {error.strerror}"
    return found, None
