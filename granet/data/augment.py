"""Random crops and flips: what is drawn, and how it is done to a whole batch at once.

Every augmentation looks at an image through a window, perhaps in a mirror, so that one value describes them all.
What is drawn and what is done are kept apart: the draws are made on the CPU from a keyed generator, one call for
a whole batch, and are therefore the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Literal["none", "crop", "crop-flip", "resized-crop-flip"]

AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

PADDING = 4
"""How many pixels "crop" adds on every side. They are black, because they are added before normalisation, which
is the order of torchvision's transforms and of He et al. (arXiv 1512.03385, section 4.2)."""

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10
"""The random resized crop of Szegedy et al. (arXiv 1409.4842, section 6): the window's share of the image's area,
its width over its height, and how often to draw before the largest central window that fits is taken instead."""


@dataclass(frozen=True, eq=False)
class Windows:
    """What was drawn for a batch.

    Args:
        boxes: int64 [B, 4], top, left, height and width in pixels of the image; a box may reach into the padding.
        flips: bool [B], whether to mirror left and right.
    """

    boxes: Tensor
    flips: Tensor


def draw(augmentation: Augmentation, generator: torch.Generator, count: int, height: int, width: int) -> Windows:
    """Draw windows for ``count`` images of ``height`` x ``width`` pixels, on the CPU.

    "crop" has the image's own size and starts up to ``PADDING`` pixels before or after the image does, uniformly;
    "resized-crop" is a part of the image, to be brought back to size; "flip" mirrors with probability 1/2.
    """
    if augmentation == "resized-crop-flip":
        boxes = _random_parts(generator, count, height, width)
    else:
        reach = 0 if augmentation == "none" else PADDING
        starts = torch.randint(-reach, reach + 1, (count, 2), generator=generator)
        boxes = torch.cat([starts, torch.tensor([[height, width]]).expand(count, 2)], dim=1)
    if augmentation.endswith("flip"):
        flips = torch.randint(0, 2, (count,), generator=generator).bool()
    else:
        flips = torch.zeros(count, dtype=torch.bool)
    return Windows(boxes, flips)


def _random_parts(generator: torch.Generator, count: int, height: int, width: int) -> Tensor:
    """Boxes of random area and aspect within the image; int64 [count, 4]."""
    area = height * width * torch.empty(count, ATTEMPTS).uniform_(*AREA, generator=generator)
    low, high = (math.log(aspect) for aspect in ASPECT)
    aspect = torch.empty(count, ATTEMPTS).uniform_(low, high, generator=generator).exp()
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first = fits.int().argmax(dim=1, keepdim=True)
    # No attempt fits an image much longer than wide: then the whole of its shorter side, within the aspects.
    fallback = (min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1])))
    found = fits.any(dim=1)
    box_height = torch.where(found, heights.gather(1, first).flatten(), fallback[0])
    box_width = torch.where(found, widths.gather(1, first).flatten(), fallback[1])
    free = torch.stack([height - box_height, width - box_width], dim=1)
    starts = (torch.rand(count, 2, generator=generator) * (free + 1)).long()
    starts = torch.where(found[:, None], starts, free // 2)
    return torch.cat([starts, box_height[:, None], box_width[:, None]], dim=1)


def apply(augmentation: Augmentation, images: Tensor, windows: Windows) -> Tensor:
    """What a batch of equally large square images looks like through ``windows``.

    Args:
        augmentation: the one that ``windows`` were drawn for.
        images: uint8 [B, C, S, S] on any device.
        windows: on the CPU.

    Returns:
        uint8 [B, C, S, S] on the same device.
    """
    if augmentation == "none":
        return images
    boxes = windows.boxes.to(images.device, non_blocking=True)
    images = _resize(images, boxes) if augmentation == "resized-crop-flip" else _crop(images, boxes)
    if not augmentation.endswith("flip"):
        return images
    flips = windows.flips.to(images.device, non_blocking=True)
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def _crop(images: Tensor, boxes: Tensor) -> Tensor:
    # A view of all crops there are, of which one per image is copied: rows stay whole, so this is a few times
    # faster than gathering pixel by pixel.
    size = images.shape[-1]
    crops = F.pad(images, (PADDING,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    rows = torch.arange(len(images), device=images.device)
    return crops[rows, :, boxes[:, 0] + PADDING, boxes[:, 1] + PADDING]


def _resize(images: Tensor, boxes: Tensor) -> Tensor:
    # A window is never larger than the image it is brought back to, so plain bilinear interpolation is enough; as
    # when Pillow resizes a cut-out, nothing beyond its outermost pixels is looked at.
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device) + 0.5
    top, left, height, width = boxes.float().T[:, :, None]
    rows = top + (pixels * height / size).clamp(0.5).minimum(height - 0.5)
    columns = left + (pixels * width / size).clamp(0.5).minimum(width - 0.5)
    shape = (len(images), size, size)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    # grid_sample counts from -1 to 1, edge to edge.
    resized = F.grid_sample(images.float(), grid * (2 / size) - 1, padding_mode="border", align_corners=False)
    return resized.round_().to(torch.uint8)
