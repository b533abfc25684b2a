"""Pixels to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALONE = (1 << 15) - 1
"""Numbers that torch works on without calling other threads. They would wait for the next call with their processors
busy, and the workers of a streaming pipeline need those; so many numbers also fit in a processor's cache."""


class Normalise:
    """Turns uint8 [B, C, H, W] into float32 ``(x / 255 - mean) / std``, per channel, on ``device``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        # In units of pixels, so that a batch is read and written twice instead of three times.
        self._mean = 255 * torch.tensor(mean, device=device)[:, None, None]
        self._scale = 1 / (255 * torch.tensor(std, device=device)[:, None, None])

    def __call__(self, images: Tensor) -> Tensor:
        """The normalised batch, in new memory of the same layout."""
        pixels = images.permute(0, 2, 3, 1)
        if images.device.type == "cpu" and pixels.is_contiguous():
            return self._by_rows(pixels).permute(0, 3, 1, 2)
        return images.float().sub_(self._mean).mul_(self._scale)

    def _by_rows(self, pixels: Tensor) -> Tensor:
        """The same of [B, H, W, C]: a few rows of pixels at a time, with their channels next to each other."""
        width = pixels.shape[2]
        mean, scale = self._mean.flatten().repeat(width), self._scale.flatten().repeat(width)
        normalised = torch.empty(pixels.shape)
        rows = max(1, _ALONE // len(mean))
        sources, targets = (torch.split(part.view(-1, len(mean)), rows) for part in (pixels, normalised))
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source).sub_(mean).mul_(scale)
        return normalised
