"""Weights in several files, with an index that says which tensor is in which: ``model.safetensors.index.json``."""

from __future__ import annotations

import json
from pathlib import Path

from granet.errors import CheckpointError
from granet.files import mapped

MAX_INDEX = 64 * 2**20
"""The most bytes of an index."""


def is_index(path: str) -> bool:
    """Whether a file of that name is an index."""
    return path.endswith(".index.json")


def files(path: Path) -> dict[Path, list[str]]:
    """Return the names of the tensors in each file that the index at ``path`` names; they lie in its folder.

    Raises:
        FileError: it cannot be read.
        CheckpointError: it is not an index, or names files elsewhere.
    """
    data = mapped.read(path)
    try:
        if data.size > MAX_INDEX:
            raise ValueError(f"{data.size} bytes")
        placed = json.loads(data.tobytes())["weight_map"]
        pairs = sorted((file, name) for name, file in placed.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            "not an index of weights in several files",
            where=path,
            got=type(error).__name__,
            expected='JSON with "weight_map": the file of each tensor',
        ) from error
    result: dict[Path, list[str]] = {}
    for file, name in pairs:
        plain = isinstance(file, str) and file not in ("", ".", "..") and not set(file) & set("/\\\0")
        if not plain or is_index(file):
            raise CheckpointError("the index names a file that is not beside it", where=path, got=repr(file)[:80])
        result.setdefault(path.parent / file, []).append(name)
    return result
