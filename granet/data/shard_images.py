"""Labelled images inside tar archives, each reached by its offset."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from granet.data import images, tar
from granet.errors import DataError

MAX_OPEN = 64
"""Archives that a reader keeps open. ImageNet has a thousand or so, each worker of a loader its own reader, and a
process may commonly have 1,024 files open."""

MAX_IMAGE = 1 << 28
"""Bytes of an image file; they are read at once."""


class Shard(NamedTuple):
    """An archive as it was when its headers were read."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True, eq=False)
class Members:
    """Labelled images in archives, to be decoded each time they are used.

    Args:
        shards: the archives.
        places: int64 [N, 3]: which archive, where in it, and how many bytes.
        labels: int64 [N], indices into the dataset's ``classes``.
    """

    shards: tuple[Shard, ...]
    places: NDArray[np.int64]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Members:
        """The examples at ``indices`` (int64), in that order."""
        return Members(self.shards, self.places[indices.numpy()], self.labels[indices])

    def reader(self) -> ShardReader:
        """What reads the images."""
        return ShardReader(self.shards, self.places)


class ShardReader:
    """See :class:`granet.data.dataset.Reader`; threads may share one.

    Copied to another process it opens archives anew. Names of members are not kept, which for ImageNet would be most
    of what every worker has to hold; a message that wants one reads the headers of its archive again.
    """

    def __init__(self, shards: tuple[Shard, ...], places: NDArray[np.int64]) -> None:
        self._shards, self._places = shards, places
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_shards"], state["_places"])  # type: ignore[misc]  # there is no subclass

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """The images there, each decoded when it is asked for."""
        places = self._places[np.asarray(indices, np.int64)].tolist()
        return (images.decode(self._read(*place), partial(self._told, *place[:2])) for place in places)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Width and height of each image, from its header."""
        for place in self._places.tolist():
            yield images.size_of(self._read(*place), partial(self._told, *place[:2]))

    def _read(self, shard: int, offset: int, count: int) -> bytes:
        try:
            with self._lock:
                data = os.pread(self._descriptor(shard), count, offset)
        except OSError as error:
            raise DataError("the shard cannot be read", where=self._shards[shard].path, got=error) from error
        if len(data) < count:
            raise _changed(self._shards[shard])
        return data

    def _descriptor(self, shard: int) -> int:
        """The archive, opened now unless it is open; the one that was used longest ago is closed for it."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        descriptor = open_shard(self._shards[shard].path)
        try:
            if described(descriptor, self._shards[shard].path) != self._shards[shard]:
                raise _changed(self._shards[shard])
        except DataError:
            os.close(descriptor)
            raise
        self._open[shard] = descriptor
        return descriptor

    def _told(self, shard: int, offset: int) -> str:
        with self._lock:
            return told(self._descriptor(shard), self._shards[shard], offset)


def open_shard(path: str | Path) -> int:
    """A descriptor for the archive; a pipe does not make this wait."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))


def described(descriptor: int, path: str) -> Shard:
    """The archive as it is now.

    Raises:
        DataError: it is not a regular file.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a file", where=path, expected="a tar archive", remedy="move or remove it")
    return Shard(path, status.st_size, status.st_mtime_ns)


def told(descriptor: int, shard: Shard, offset: int) -> str:
    """What to call the member whose bytes begin at ``offset``: its archive and its name."""
    for member in tar.members(tar.FileWindow(descriptor, shard.size), shard.path):
        if member.offset == offset:
            return f"{shard.path}, member {member.name!r}"
    return f"{shard.path}, byte {offset}"


def _changed(shard: Shard) -> DataError:
    return DataError(
        "the shard is not what it was when its headers were read",
        where=shard.path,
        expected=f"{shard.size} bytes, not written to since",
        remedy="leave the shards alone while they are in use; start or resume the run again",
    )
