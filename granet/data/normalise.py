"""Pixels to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalise:
    """Turns uint8 [B, C, H, W] into float32 ``(x / 255 - mean) / std``, per channel, on ``device``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        # In units of pixels, so that a batch is read and written twice instead of three times.
        self._mean = 255 * torch.tensor(mean, device=device)[:, None, None]
        self._scale = 1 / (255 * torch.tensor(std, device=device)[:, None, None])

    def __call__(self, images: Tensor) -> Tensor:
        """The normalised batch, in new memory of the same layout."""
        return images.float().sub_(self._mean).mul_(self._scale)
