"""The file of a history: how it began, and every update since, one behind the other.

    magic, 8 bytes
    frame with a header in JSON
    frame with the masks that it began with, when nobody can draw them again
    frame for each update

A frame is the length of its body, the body, and a CRC-32 that goes on from that of the frame before, so that frames
cannot be lost, exchanged or cut off unnoticed. Files grow at their end alone. What a kill left there half-written is
no frame, and is told from the rest by that.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from granet.checkpoint import canonical
from granet.checkpoint.fields import Field
from granet.errors import CheckpointError
from granet.history import changes
from granet.history.changes import FlatMasks
from granet.history.numbers import read_number, written
from granet.masks.codec import Mask

MAGIC = b"\x93granet\n"
FORMAT, VERSION = "granet history", (1, 0)
_FIELDS = ("format", "version", "step", "layers", "shapes", "masks", "check")
_CRC_BYTES = 4

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where a history begins.

    Attributes:
        step: optimizer steps done by then.
        shapes: of the masks, in the order of the network.
        check: the checksum of the masks.
        stored: the masks as a change from nothing active; None when they are those that the recipe draws.
    """

    step: int
    shapes: Shapes
    check: int
    stored: bytes | None

    def masks(self) -> dict[str, Mask]:
        """The stored masks.

        Call it once the shapes are known to be those of a checkpoint: it allocates as much as they say.

        Raises:
            ValueError: no sound masks, or none stored.
        """
        if self.stored is None:
            raise ValueError("the masks are not stored")
        return changes.decode(self.stored, {name: np.zeros(prod(s), np.bool_) for name, s in self.shapes.items()})


@dataclass(frozen=True)
class HistoryEntry:
    """One update: the step after which it happened, its change of the masks, and where its frame ends in the file."""

    step: int
    change: bytes
    end: int


@dataclass(frozen=True, kw_only=True)
class Log:
    """A file as far as it is sound.

    Attributes:
        beginning: how it began.
        entries: the updates, by step.
        start: where the first of them begins in the file.
        size: of the whole file; what lies past the last entry is no frame.
        chain: the CRC-32 of the last frame before each entry, and of the last one.
    """

    beginning: Beginning
    entries: tuple[HistoryEntry, ...]
    start: int
    size: int
    chain: tuple[int, ...]

    @property
    def torn(self) -> int:
        """Bytes at the end that are no frame."""
        return self.size - (self.entries[-1].end if self.entries else self.start)


def begin(step: int, shapes: Shapes, masks: FlatMasks, *, stored: bool) -> tuple[bytes, int]:
    """A history without updates, and the CRC-32 that the next frame goes on from.

    Args:
        step: optimizer steps done.
        shapes: of the masks.
        masks: what is active now.
        stored: whether to store them, since the recipe does not say what they are.
    """
    header = {
        "format": FORMAT,
        "version": list(VERSION),
        "step": step,
        "layers": list(shapes),
        "shapes": [list(shape) for shape in shapes.values()],
        "masks": "stored" if stored else "recipe",
        "check": changes.check_of(masks),
    }
    frame, chain = _frame(canonical.dumps(header, where="header of the history").encode(), zlib.crc32(MAGIC))
    if not stored:
        return MAGIC + frame, chain
    nothing = {name: np.zeros_like(mask) for name, mask in masks.items()}
    more, chain = _frame(changes.encode(nothing, masks), chain)
    return MAGIC + frame + more, chain


def entry(step: int, previous: int, before: FlatMasks, after: FlatMasks, chain: int) -> tuple[bytes, int]:
    """The frame of an update after ``step``, the one before having been after ``previous``, and its CRC-32."""
    return _frame(written(step - previous) + changes.encode(before, after), chain)


def parse(data: bytes, where: str) -> Log:
    """What is in a file.

    Raises:
        CheckpointError: no history, one with a damaged beginning, or of a version that this granet cannot read.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CheckpointError("not a history of masks that granet wrote", where=where)
    frames = _frames(data)
    header, cursor, chain = next(frames, (b"", 0, 0))
    if not cursor:
        raise _damaged(where)
    beginning = _beginning(header, where)
    if beginning.stored is not None:
        masks, cursor, chain = next(frames, (b"", 0, 0))
        if not cursor:
            raise _damaged(where)
        beginning = Beginning(step=beginning.step, shapes=beginning.shapes, check=beginning.check, stored=masks)
    start, step, chains, entries = cursor, beginning.step, [chain], []
    for body, end, own in frames:
        try:
            later, read = read_number(body, 0)
        except ValueError as error:
            raise CheckpointError("the history is damaged", where=where, got=f"after step {step}: {error}") from None
        step += later
        entries.append(HistoryEntry(step, body[read:], end))
        chains.append(own)
    return Log(beginning=beginning, entries=tuple(entries), start=start, size=len(data), chain=tuple(chains))


def _frame(body: bytes, chain: int) -> tuple[bytes, int]:
    chain = zlib.crc32(body, chain)
    return written(len(body)) + body + chain.to_bytes(_CRC_BYTES, "little"), chain


def _frames(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The body of each frame, where it ends, and its CRC-32; up to what is no frame."""
    cursor, chain = len(MAGIC), zlib.crc32(MAGIC)
    while cursor < len(data):
        try:
            length, begin = read_number(data, cursor)
        except ValueError:
            return
        end = begin + length
        body = data[begin:end]
        chain = zlib.crc32(body, chain)
        if data[end : end + _CRC_BYTES] != chain.to_bytes(_CRC_BYTES, "little"):
            return
        cursor = end + _CRC_BYTES
        yield body, cursor, chain


def _beginning(header: bytes, where: str) -> Beginning:
    try:
        text = header.decode()
    except UnicodeDecodeError:
        raise _damaged(where) from None
    root = Field(canonical.loads(text, where=where), f"{where}, header")
    fields = dict(root.members())
    if fields.get("format", root).value != FORMAT:
        raise CheckpointError("not a history of masks", where=where)
    major, minor = Field(root.object().get("version"), f"{where}, version").integers(2)
    if major != VERSION[0]:
        raise CheckpointError(
            "the history is of a version that this granet cannot read",
            where=where,
            got=f"version {major}.{minor}",
            expected=f"version {VERSION[0]}",
            remedy="update granet",
        )
    known = {key: field.value for key, field in fields.items() if key in _FIELDS or minor <= VERSION[1]}
    fields = Field(known, root.where).record(*_FIELDS)
    names, shapes = fields["layers"].texts(), fields["shapes"].value
    if not isinstance(shapes, list) or len(shapes) != len(names):
        fields["shapes"].refuse("a shape for each layer")
    return Beginning(
        step=fields["step"].count(),
        shapes={
            name: Field(shape, f"{where}, shape of {name}").shape() for name, shape in zip(names, shapes, strict=True)
        },
        check=fields["check"].count(),
        stored=b"" if fields["masks"].one_of(("stored", "recipe")) == "stored" else None,
    )


def _damaged(where: str) -> CheckpointError:
    return CheckpointError("the beginning of the history is damaged", where=where)
