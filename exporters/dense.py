"""Export a checkpoint to a plain safetensors file of dense tensors, for other tools."""

from __future__ import annotations

import os

import safetensors.torch
from torch import Tensor

from granet.checkpoint import Checkpoint, extra_state
from granet.files import atomic


def write_dense(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write weights and buffers under their own names in their full shapes, without masks and training state.

    The file is what ``safetensors.torch.save_file(model.state_dict(), path)`` would give for an untied model: any
    tool that reads safetensors opens it. Extra state of modules is left out where it is no tensor. Written atomically
    and durably.

    Raises:
        FileError: the file cannot be written; one that was there before is as it was.
    """
    extra = {key: value for key, value in checkpoint.extra_state.items() if key.endswith(extra_state.SUFFIX)}
    state = checkpoint.weights | checkpoint.buffers | extra
    tensors = {name: value.detach().contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    # By this entry other libraries recognise files whose tensors have PyTorch's layout.
    atomic.write(path, safetensors.torch.save(tensors, {"format": "pt"}))
