"""The memory format of images: the order in which their channels, rows and columns lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def image_layout(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return ``images``, [examples, channels, height, width], in a memory format; preserve_format changes nothing."""
    if memory_format is torch.preserve_format:
        return images
    if memory_format is torch.contiguous_format:
        # Strides of a dimension of size 1 mean nothing, but kernels go by those of a single channel: write them anew.
        return images.contiguous().flatten().view(images.shape)
    return images.contiguous(memory_format=memory_format)
