"""The file of a history: a header, and a frame for every update.

    magic, 8 bytes
    frame with the header, JSON
    frame with the initial masks, where the recipe does not determine them
    frame for each update

A frame is the length of its body, the body, and a CRC-32 that continues from that of the frame before, so that a frame
that is lost, exchanged or cut off is noticed. A file only grows at its end. Half a frame that a kill left there is told
from the rest by its CRC. Files of format 1 differ only in how the bytes of a change are coded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from granet.checkpoint import canonical
from granet.checkpoint.fields import Field
from granet.errors import CheckpointError
from granet.history import changes, varint, version1
from granet.history.changes import FlatMasks
from granet.masks.codec import Mask

MAGIC = b"\x93granet\n"
FORMAT, VERSION = "granet history", (2, 0)
_READABLE = (1, 2)
"""Major versions."""
_FIELDS = ("format", "version", "step", "layers", "shapes", "masks", "check")
_CRC_BYTES = 4

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """An update.

    Attributes:
        step: optimizer steps done by then.
        change: what it did to the masks.
        end: where its frame ends in the file.
        crc: CRC-32 of the frame.
    """

    step: int
    change: bytes
    end: int
    crc: int


@dataclass(frozen=True, kw_only=True)
class Log:
    """The content of a file, up to the first frame that is not complete.

    Attributes:
        version: major version of the format.
        shapes: of the masks, in the order of the network.
        check: checksum of the initial masks.
        stored: whether the initial masks are stored; otherwise the recipe determines them.
        start: the beginning as an entry: its step, and the stored masks as a change from all-inactive masks.
        entries: the updates, by step.
        size: of the whole file, in bytes.
    """

    version: int
    shapes: Shapes
    check: int
    stored: bool
    start: HistoryEntry
    entries: tuple[HistoryEntry, ...]
    size: int

    @property
    def last(self) -> HistoryEntry:
        """The last update, or the beginning."""
        return self.entries[-1] if self.entries else self.start

    @property
    def incomplete_bytes(self) -> int:
        """Bytes at the end of the file that are no frame."""
        return self.size - self.last.end

    def until(self, step: int) -> Log:
        """Return the part up to ``step``."""
        entries = tuple(entry for entry in self.entries if entry.step <= step)
        part = replace(self, entries=entries)
        return replace(part, size=part.last.end)

    def decode(self, change: bytes, before: FlatMasks) -> dict[str, Mask]:
        """Return the masks after a change; raises ValueError when it is not one of ``before``."""
        return version1.decode(change, before) if self.version == 1 else changes.decode(change, before)

    def stored_masks(self) -> dict[str, Mask]:
        """Return the stored initial masks.

        Call it when the shapes are known to be those of a checkpoint: it allocates as much as they say.

        Raises:
            ValueError: they are damaged.
        """
        return self.decode(self.start.change, {name: np.zeros(prod(s), np.bool_) for name, s in self.shapes.items()})


def begin(step: int, shapes: Shapes, masks: FlatMasks, *, stored: bool) -> tuple[bytes, int]:
    """Return a history without updates, and the CRC-32 from which the next frame continues.

    Args:
        step: optimizer steps done.
        shapes: of the masks.
        masks: the initial masks.
        stored: whether to store them; otherwise the recipe has to determine them.
    """
    header = {
        "format": FORMAT,
        "version": list(VERSION),
        "step": step,
        "layers": list(shapes),
        "shapes": [list(shape) for shape in shapes.values()],
        "masks": "stored" if stored else "recipe",
        "check": changes.checksum(masks),
    }
    frame, crc = _frame(canonical.dumps(header, where="header of the history").encode(), zlib.crc32(MAGIC))
    if not stored:
        return MAGIC + frame, crc
    inactive = {name: np.zeros_like(mask) for name, mask in masks.items()}
    more, crc = _frame(changes.encode(inactive, masks), crc)
    return MAGIC + frame + more, crc


def entry(step: int, previous: int, before: FlatMasks, after: FlatMasks, crc: int) -> tuple[bytes, int]:
    """Return the frame of an update and its CRC-32.

    Args:
        step: of the update.
        previous: step of the update before, or of the beginning.
        before, after: masks.
        crc: of the frame before.
    """
    return _frame(varint.encode(step - previous) + changes.encode(before, after), crc)


def parse(data: bytes, where: str) -> Log:
    """Read a file.

    Raises:
        CheckpointError: not a history, one with a damaged header, or of a version that this granet cannot read.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CheckpointError("not a history of masks that granet wrote", where=where)
    frames = _frames(data)
    try:
        body, end, crc = next(frames)
        version, step, shapes, check, stored = _header(body, where)
        masks = b""
        if stored:
            masks, end, crc = next(frames)
    except (StopIteration, UnicodeDecodeError):
        raise CheckpointError("the beginning of the history is damaged", where=where) from None
    start = HistoryEntry(step=step, change=masks, end=end, crc=crc)
    entries = []
    for body, end, crc in frames:
        try:
            steps, begins = varint.decode(body, 0)
        except ValueError as error:
            raise CheckpointError("the history is damaged", where=where, got=f"after step {step}: {error}") from None
        step += steps
        entries.append(HistoryEntry(step=step, change=body[begins:], end=end, crc=crc))
    return Log(
        version=version,
        shapes=shapes,
        check=check,
        stored=stored,
        start=start,
        entries=tuple(entries),
        size=len(data),
    )


def _frame(body: bytes, crc: int) -> tuple[bytes, int]:
    crc = zlib.crc32(body, crc)
    return varint.encode(len(body)) + body + crc.to_bytes(_CRC_BYTES, "little"), crc


def _frames(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield body, end and CRC-32 of each complete frame."""
    cursor, crc = len(MAGIC), zlib.crc32(MAGIC)
    while cursor < len(data):
        try:
            length, begins = varint.decode(data, cursor)
        except ValueError:
            return
        end = begins + length
        body = data[begins:end]
        crc = zlib.crc32(body, crc)
        if data[end : end + _CRC_BYTES] != crc.to_bytes(_CRC_BYTES, "little"):
            return
        cursor = end + _CRC_BYTES
        yield body, cursor, crc


def _header(body: bytes, where: str) -> tuple[int, int, Shapes, int, bool]:
    """Return major version, step, shapes, checksum of the masks, and whether they are stored."""
    root = Field(canonical.loads(body.decode(), where=where), f"{where}, header")
    fields = dict(root.members())
    if fields.get("format", root).value != FORMAT:
        raise CheckpointError("not a history of masks", where=where)
    major, minor = Field(root.object().get("version"), f"{where}, version").integers(2)
    if major not in _READABLE:
        raise CheckpointError(
            "the history is of a version that this granet cannot read",
            where=where,
            got=f"version {major}.{minor}",
            expected="version 1 or 2",
            remedy="update granet",
        )
    known = {key: field.value for key, field in fields.items() if key in _FIELDS or minor == 0}
    fields = Field(known, root.where).record(*_FIELDS)
    names, shapes = fields["layers"].texts(), fields["shapes"].value
    if not isinstance(shapes, list) or len(shapes) != len(names):
        fields["shapes"].refuse("a shape for each layer")
    by_name = {
        name: Field(shape, f"{where}, shape of {name}").shape() for name, shape in zip(names, shapes, strict=True)
    }
    stored = fields["masks"].one_of(("stored", "recipe")) == "stored"
    return major, fields["step"].count(), by_name, fields["check"].count(), stored
