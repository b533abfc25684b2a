"""Labelled images inside tar archives, each reached by its offset."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from granet.data import tar
from granet.data.images import ImageReader, Where
from granet.errors import DataError

MAX_OPEN = 64
"""Archives that a reader keeps open. ImageNet has a thousand or so, each worker of a loader has its own reader, and a
process may commonly have 1,024 files open."""


class Shard(NamedTuple):
    """An archive as it was when its headers were read."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Labelled images in archives, to be decoded each time they are used.

    Args:
        shards: the archives.
        locations: int64 [N, 3]: the index of the archive, the offset in it, and the number of bytes.
        labels: int64 [N], indices into the dataset's ``classes``.
    """

    shards: tuple[Shard, ...]
    locations: NDArray[np.int64]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> ShardImages:
        """Return the examples at ``indices`` (int64), in that order."""
        return ShardImages(self.shards, self.locations[indices.numpy()], self.labels[indices])

    def reader(self) -> ShardReader:
        """Return a reader of the images."""
        return ShardReader(self.shards, self.locations)


class ShardReader(ImageReader):
    """Reads images in archives; threads may share one.

    Copied to another process it opens archives anew. Names of members are not kept, which for ImageNet would be most
    of a worker's memory; a message that needs one reads the headers of its archive again.
    """

    def __init__(self, shards: tuple[Shard, ...], locations: NDArray[np.int64]) -> None:
        self._shards, self._locations = shards, locations
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_locations": self._locations}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_shards"], state["_locations"])  # type: ignore[misc]  # there is no subclass

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._locations)

    def source(self, index: int) -> tuple[BytesIO, Where]:
        """Return the bytes of an image file."""
        shard, offset, count = self._locations[index].tolist()
        try:
            with self._lock:
                data = os.pread(self._descriptor(shard), count, offset)
        except OSError as error:
            raise DataError("the shard cannot be read", where=self._shards[shard].path, got=error) from error
        if len(data) < count:
            raise _changed(self._shards[shard])
        return BytesIO(data), partial(self.member, index)

    def member(self, index: int) -> str:
        """Return what to call an image in a message: its archive and its name there."""
        number, offset, _ = self._locations[index].tolist()
        shard = self._shards[number]
        with self._lock:
            for member in tar.members(tar.FileWindow(self._descriptor(number), shard.size), shard.path):
                if member.offset == offset:
                    return f"{shard.path}, member {member.name!r}"
        return f"{shard.path}, byte {offset}"

    def _descriptor(self, shard: int) -> int:
        """Return a descriptor of an archive; if it is not open, it takes the place of the least recently used one."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        descriptor = open_shard(self._shards[shard].path)
        try:
            if stat_shard(descriptor, self._shards[shard].path) != self._shards[shard]:
                raise _changed(self._shards[shard])
        except DataError:
            os.close(descriptor)
            raise
        self._open[shard] = descriptor
        return descriptor


def open_shard(path: str | Path) -> int:
    """Return a descriptor for the archive; a pipe does not make this wait."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))


def stat_shard(descriptor: int, path: str) -> Shard:
    """Return the size and time of the archive as it is now.

    Raises:
        DataError: it is not a regular file.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a file", where=path, expected="a tar archive", remedy="move or remove it")
    return Shard(path, status.st_size, status.st_mtime_ns)


def _changed(shard: Shard) -> DataError:
    return DataError(
        "the shard has changed since its headers were read",
        where=shard.path,
        expected=f"{shard.size} bytes, not written to since",
        remedy="leave the shards alone while they are in use; start or resume the run again",
    )
