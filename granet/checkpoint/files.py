"""Checkpoints in files: written atomically, and read back whole, as an outline, or as weights alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from granet.checkpoint import codec
from granet.checkpoint.reader import File
from granet.checkpoint.value import Checkpoint
from granet.errors import CheckpointError
from granet.files import atomic, mapped
from granet.masks.codec import Bytes

_Result = TypeVar("_Result")


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to the file at ``path``, atomically and durably; equal values make identical files.

    Its tensors may be anywhere, in any memory format. Takes as much memory as the file and, where a tensor lies on
    another device or in another order, a copy of that one.

    Raises:
        CheckpointError: the value cannot be stored exactly.
        FileError: the file cannot be written. Either way the file that was at ``path`` is as it was.
    """
    atomic.write(path, codec.encode(checkpoint))


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint in the file at ``path``, on the CPU, bit for bit as it was saved.

    Raises:
        FileError: the file is not there, or not readable.
        CheckpointError: not a granet checkpoint, damaged (a single flipped bit is noticed, and the error
            names the tensor or the header), or of a version that this granet cannot read.
    """
    return _decode_file(path, codec.decode)


def load_outline(path: str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint with masks and explored sets, and all other tensors without data, on the meta device.

    For a look at a checkpoint that does not fit memory. The whole file is checked against its hashes all the same.
    Raises as :func:`load`.
    """
    return _decode_file(path, partial(codec.decode, outline=True))


def load_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the weights, in their full shapes, buffers and extra state of a checkpoint, for ``model.load_state_dict``.

    Raises as :func:`load`.
    """
    return _decode_file(path, codec.decode_weights)


def content_hash(path: str | os.PathLike[str]) -> str:
    """Return the content hash of a checkpoint: 64 hexadecimal digits, the same for equal values and for nothing else.

    Reads and checks the header alone, which contains the hashes of the tensors. A loaded checkpoint has the hash of
    what it was loaded from as ``checkpoint.content_hash``.

    Raises:
        FileError: the file is not there, or not readable.
        CheckpointError: not a granet checkpoint, or with a damaged header.
    """
    return _decode_file(path, File.open).content_hash


def _decode_file(path: str | os.PathLike[str], decode: Callable[[Bytes, str], _Result]) -> _Result:
    """Return what ``decode`` makes of the bytes and the path of a file.

    Raises:
        FileError: the file is not there, or not readable.
        CheckpointError: as ``decode`` raises it, or the decoded value does not fit memory.
    """
    try:
        return decode(mapped.read(path), os.fspath(path))
    except MemoryError:
        raise CheckpointError(
            "there is not enough memory for what the file describes",
            where=os.fspath(path),
            remedy="if you did not expect that, do not trust the file",
        ) from None
