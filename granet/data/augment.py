"""Random crops and flips: the draws, and their application to a whole batch at once.

Every augmentation shows a window of an image, perhaps mirrored, so that one value describes them all. Drawing and
applying are separate: the draws are made on the CPU from a keyed generator, one call for a whole batch, and are
therefore the same on every device.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Literal["none", "crop", "crop-flip", "resized-crop-flip"]

AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

PADDING = 4
"""Pixels that "crop" adds on every side. They are black, because they are added before normalisation, in the order
of torchvision's transforms and of He et al. (arXiv 1512.03385, section 4.2)."""

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10
"""The random resized crop of Szegedy et al. (arXiv 1409.4842, section 6): the window's share of the image's area,
its width over its height, and how often to draw before the largest central window that fits is taken instead."""


@dataclass(frozen=True, eq=False)
class CropWindows:
    """The windows drawn for a batch.

    Args:
        boxes: int64 [B, 4], top, left, height and width in pixels of the image; a box may reach into the padding.
        flips: bool [B], whether to mirror left and right.
    """

    boxes: Tensor
    flips: Tensor


class CropWindow(NamedTuple):
    """The window drawn for a single image, in pixels, as plain numbers."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


class CropDraw(NamedTuple):
    """The draws for a single image whose size is not known yet, as plain numbers.

    Args:
        shapes: for a resized crop, area and aspect of each attempt; else empty.
        position: where the window starts, in pixels; for a resized crop as shares of what it leaves free.
        flip: whether to mirror left and right.
    """

    shapes: tuple[tuple[float, float], ...]
    position: tuple[float, float]
    flip: bool

    def window(self, height: int, width: int) -> CropWindow:
        """Return the window for an image of ``height`` x ``width`` pixels; no tensors, which are slow between images.

        Every operation is rounded to single precision, as those of tensors are. Rounding twice, from the double
        precision of Python's numbers, comes to the same for a product, a quotient and a root.
        """
        if not self.shapes:
            top, left = self.position
            return CropWindow(int(top), int(left), height, width, self.flip)
        for area_share, aspect in self.shapes:
            area = _single(_single(height * width) * area_share)
            tall, wide = round(_root(_single(area / aspect))), round(_root(_single(area * aspect)))
            if 0 < tall <= height and 0 < wide <= width:
                free = (height - tall, width - wide)
                top, left = (int(_single(share * (room + 1))) for share, room in zip(self.position, free, strict=True))
                return CropWindow(top, left, tall, wide, self.flip)
        tall, wide = _largest(height, width)
        return CropWindow((height - tall) // 2, (width - wide) // 2, tall, wide, self.flip)


def draw_batch(
    augmentation: Augmentation, generator: torch.Generator, count: int, height: int, width: int
) -> CropWindows:
    """Draw windows for ``count`` images of ``height`` x ``width`` pixels, on the CPU.

    "crop" has the image's own size and starts up to ``PADDING`` pixels before or after the image does, uniformly;
    "resized-crop" is a part of the image, to be resized to its size; "flip" mirrors with probability 1/2.
    """
    if augmentation == "resized-crop-flip":
        boxes = _random_parts(generator, count, height, width)
    else:
        reach = _reach(augmentation)
        starts = torch.randint(-reach, reach + 1, (count, 2), generator=generator)
        boxes = torch.cat([starts, torch.tensor([[height, width]]).expand(count, 2)], dim=1)
    if augmentation.endswith("flip"):
        flips = torch.randint(0, 2, (count,), generator=generator).bool()
    else:
        flips = torch.zeros(count, dtype=torch.bool)
    return CropWindows(boxes, flips)


def draw_one(augmentation: Augmentation, generator: torch.Generator) -> CropDraw:
    """Draw for one image. Its ``window`` for a size is that of :func:`draw_batch` for a count of one and that size."""
    shapes: tuple[tuple[float, float], ...] = ()
    if augmentation == "resized-crop-flip":
        areas, aspects = _attempts(generator, 1)
        shapes = tuple(zip(areas[0].tolist(), aspects[0].tolist(), strict=True))
        top, left = torch.rand(2, generator=generator).tolist()
    else:
        reach = _reach(augmentation)
        top, left = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    flip = augmentation.endswith("flip") and bool(torch.randint(0, 2, (1,), generator=generator))
    return CropDraw(shapes, (top, left), flip)


def draw_each(augmentation: Augmentation, seeds: Sequence[int]) -> list[CropDraw]:
    """Return what :func:`draw_one` draws from a generator of each seed, faster, which matters for small images."""
    source = torch.Generator()
    if augmentation == "resized-crop-flip":
        return [draw_one(augmentation, source.manual_seed(seed)) for seed in seeds]
    reach = _reach(augmentation)
    starts, flips = torch.empty(len(seeds), 2, dtype=torch.int64), torch.zeros(len(seeds), dtype=torch.int64)
    mirrored = augmentation.endswith("flip")
    for seed, start, flip in zip(seeds, starts.unbind(), flips[:, None], strict=True):
        source.manual_seed(seed)
        start.random_(-reach, reach + 1, generator=source)
        if mirrored:
            flip.random_(0, 2, generator=source)
    drawn = zip(starts.tolist(), flips.tolist(), strict=True)
    return [CropDraw((), (top, left), bool(flip)) for (top, left), flip in drawn]


def _reach(augmentation: Augmentation) -> int:
    """Return how many pixels beyond the image a window may start."""
    return 0 if augmentation == "none" else PADDING


def _random_parts(generator: torch.Generator, count: int, height: int, width: int) -> Tensor:
    """Draw boxes of random area and aspect within the image; int64 [count, 4]."""
    shares, aspect = _attempts(generator, count)
    area = height * width * shares
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first = fits.int().argmax(dim=1, keepdim=True)
    fallback = _largest(height, width)
    found = fits.any(dim=1)
    box_height = torch.where(found, heights.gather(1, first).flatten(), fallback[0])
    box_width = torch.where(found, widths.gather(1, first).flatten(), fallback[1])
    free = torch.stack([height - box_height, width - box_width], dim=1)
    starts = (torch.rand(count, 2, generator=generator) * (free + 1)).long()
    starts = torch.where(found[:, None], starts, free // 2)
    return torch.cat([starts, box_height[:, None], box_width[:, None]], dim=1)


def _attempts(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Draw shares of the area, and widths over heights; float32 [count, ATTEMPTS] each."""
    shares = torch.empty(count, ATTEMPTS).uniform_(*AREA, generator=generator)
    low, high = (math.log(aspect) for aspect in ASPECT)
    return shares, torch.empty(count, ATTEMPTS).uniform_(low, high, generator=generator).exp_()


def _largest(height: int, width: int) -> tuple[int, int]:
    """Return height and width of the box for an image so long that no attempt fits: all of its shorter side."""
    return min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))


_SINGLE = struct.Struct("f")


def _single(number: float) -> float:
    """Round to single precision."""
    nearest: float = _SINGLE.unpack(_SINGLE.pack(number))[0]
    return nearest


def _root(number: float) -> float:
    return _single(math.sqrt(number))


def apply(augmentation: Augmentation, images: Tensor, windows: CropWindows) -> Tensor:
    """Crop, resize and mirror a batch of equally large square images as ``windows`` say.

    Args:
        augmentation: the one that ``windows`` were drawn for.
        images: uint8 [B, C, S, S] on any device.
        windows: on the CPU.

    Returns:
        uint8 [B, C, S, S] on the same device.
    """
    if augmentation == "none":
        return images
    if augmentation == "resized-crop-flip":
        images = _resize(images, _moved(windows.boxes, images.device))
    elif images.device.type == "cpu":
        images = crop_rows(images, windows.boxes)
    else:
        images = crop_views(images, _moved(windows.boxes, images.device))
    return _mirror(images, windows.flips) if augmentation.endswith("flip") else images


def _moved(drawn: Tensor, device: torch.device) -> Tensor:
    """Copy ``drawn`` to ``device``, from pinned memory: a copy from any other may wait for the work queued there."""
    return (drawn.pin_memory() if device.type == "cuda" else drawn).to(device, non_blocking=True)


def crop_views(images: Tensor, boxes: Tensor) -> Tensor:
    """Crop images to ``boxes``, int64 [B, 4] on the device of ``images``, which all have the size of an image.

    One crop per image is copied from a view of all possible crops.
    """
    size = images.shape[-1]
    crops = F.pad(images, (PADDING,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    rows = torch.arange(len(images), device=images.device)
    return crops[rows, :, boxes[:, 0] + PADDING, boxes[:, 1] + PADDING]


def crop_rows(images: Tensor, boxes: Tensor) -> Tensor:
    """Crop as :func:`crop_views`, on a CPU three times as fast: NumPy copies each row of a crop as one item."""
    channels, size = images.shape[1], images.shape[-1]
    wide = size + 2 * PADDING
    padded = F.pad(images, (PADDING,) * 4).contiguous().numpy()
    items = np.ndarray((padded.size - size + 1,), np.dtype((np.void, size)), padded, strides=(1,))
    first = wide * wide * channels * torch.arange(len(images)) + wide * (boxes[:, 0] + PADDING) + boxes[:, 1] + PADDING
    rows = wide * wide * torch.arange(channels)[:, None] + wide * torch.arange(size)
    chosen = items[(first[:, None, None] + rows).numpy()]
    return torch.from_numpy(chosen.view(np.uint8).reshape(images.shape))


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    # Choosing whole images is faster than choosing pixels.
    chosen = torch.arange(len(images)) + len(images) * flips
    return torch.cat([images, images.flip(-1)]).index_select(0, _moved(chosen, images.device))


def _resize(images: Tensor, boxes: Tensor) -> Tensor:
    # A window is never larger than the image that it is resized to, so plain bilinear interpolation is enough; as
    # when Pillow resizes a crop, pixels beyond its edges have no influence.
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
