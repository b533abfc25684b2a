"""Export a checkpoint to a plain safetensors file of dense tensors, for other tools."""

from __future__ import annotations

import os

import safetensors.torch

from granet.checkpoint import Checkpoint
from granet.files import atomic


def write_dense(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write weights and buffers under their own names in their full shapes, without masks and training state.

    The file is what ``safetensors.torch.save_file(model.state_dict(), path)`` would give for an untied model: any
    tool that reads safetensors opens it. Written atomically and durably.

    Raises:
        FileError: the file cannot be written; one that was there before is as it was.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in (checkpoint.weights | checkpoint.buffers).items()}
    # By this entry other libraries recognise files whose tensors have PyTorch's layout.
    atomic.write(path, safetensors.torch.save(tensors, {"format": "pt"}))
