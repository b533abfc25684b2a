"""Checkpoints: a value (``value``), its bytes (``codec``, ``schema``, ``container``) and its file (``files``).

checkpoint = granet.checkpoint.load("runs/a/last.safetensors")
granet.checkpoint.save("copy.safetensors", checkpoint)
"""

from __future__ import annotations

import os

from torch import Tensor

from granet.checkpoint import codec, files
from granet.checkpoint.value import Checkpoint, Network, Slot

__all__ = ["Checkpoint", "Network", "Slot", "load", "load_weights", "save"]


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` to the file at ``path``, atomically and durably; equal values make identical files.

    Raises:
        CheckpointError: the value cannot be stored exactly, or the file cannot be written. Either way the file that
            was at ``path`` is as it was.
    """
    files.write(path, codec.encode(checkpoint))


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in the file at ``path``, on the CPU, bit for bit as it was saved.

    Raises:
        CheckpointError: not there, not a granet checkpoint, damaged, or of a version that this granet cannot read.
    """
    return codec.decode(files.read(path), os.fspath(path))


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights, in their full shapes, and buffers of a checkpoint, for ``model.load_state_dict``.

    Raises:
        CheckpointError: as :func:`load`.
    """
    return codec.decode_weights(files.read(path), os.fspath(path))
