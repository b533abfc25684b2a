"""Image files as pixels: Pillow decodes, and an unreadable file is an error that names it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from granet.data.augment import Window
from granet.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What an image may be. Pillow knows more, among them EPS, which it hands to another program to run."""

WHOLE = 224 / 256
"""The share of its shorter side that evaluation sees of an image that has to be resized; the custom for ImageNet."""

_SLENDER = 16
"""How many times as long as wide an image may be before its ends are cut off. A line of pixels, enlarged until it is
as wide as a network wants it, would take all memory."""


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """The image in ``path``, its header read; whatever goes wrong with it is a DataError that names it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds of errors when a file is damaged.
        raise DataError(
            "cannot be read as an image",
            where=Path(path),
            got=error,
            expected=f"a sound {', '.join(FORMATS)} file",
            remedy="replace or remove it",
        ) from error


def load(path: Path | str) -> Image.Image:
    """The image in ``path``, decoded, in RGB.

    Pillow's limit on the number of pixels is left as it is, so a decompression bomb is an error too.

    Raises:
        DataError: it cannot be read, is not an image, is damaged, or has more than 8 bits per channel.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DataError(
                "images of this kind are not supported",
                where=Path(path),
                got=f"mode {image.mode}",
                expected="8 bits per channel",
                remedy="convert it",
            )
        image.load()
        # Pillow warns of a transparent palette unless it becomes RGBA first.
        whole = image.convert("RGBA") if "transparency" in image.info else image
        return whole if whole.mode == "RGB" else whole.convert("RGB")


def common_side(paths: Sequence[Path]) -> int | None:
    """The height and width of these images if they are all square and equally large, else None.

    Reads headers only, and stops at the first image that differs.
    """
    side = None
    for path in paths:
        with _opened(path) as image:
            width, height = image.size
        if width != height or side not in (None, width):
            return None
        side = width
    return side


def whole_view(image: Image.Image, side: int) -> Image.Image:
    """What evaluation sees: an image of that size as it is; any other resized, and its central square.

    The shorter side becomes ``side / WHOLE`` pixels, by bilinear interpolation.
    """
    if image.size == (side, side):
        return image
    longest = _SLENDER * min(image.size)
    if max(image.size) > longest:  # the middle is all that is seen, and the whole would be enlarged beyond all bounds
        image = _middle(image, min(image.width, longest), min(image.height, longest))
    target = round(side / WHOLE)
    scale = target / min(image.size)
    width, height = (max(target, round(length * scale)) for length in image.size)
    return _middle(image.resize((width, height), Image.Resampling.BILINEAR), side, side)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def window_view(image: Image.Image, window: Window, side: int) -> Image.Image:
    """What training sees: the image through the window, black beyond its edges, ``side`` pixels square."""
    top, left, height, width, flip = window
    seen = image.crop((left, top, left + width, top + height))
    if seen.size != (side, side):
        seen = seen.resize((side, side), Image.Resampling.BILINEAR)
    return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else seen


def fill(pixels: NDArray[np.uint8], images: Iterable[Image.Image]) -> None:
    """Writes RGB images, each as soon as it comes, into ``pixels`` [N, H, W, 3], which has their sizes."""
    for place, image in zip(pixels, images, strict=True):
        place[:] = np.frombuffer(image.tobytes(), np.uint8).reshape(place.shape)


def stack(images: Sequence[Image.Image], side: int) -> Tensor:
    """RGB images of ``side`` pixels square as uint8 [N, 3, side, side]; memory is channels last, as Pillow's is."""
    pixels = np.empty((len(images), side, side, 3), np.uint8)
    fill(pixels, images)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def load_all(paths: Sequence[Path], side: int) -> Tensor:
    """Every image as evaluation sees it: uint8 [N, 3, side, side], contiguous.

    Raises:
        DataError: as :func:`load`; of several bad files the first is named.
    """
    pixels = np.empty((len(paths), side, side, 3), dtype=np.uint8)

    def decode(start: int) -> None:
        part = slice(start, start + 256)
        fill(pixels[part], (whole_view(load(path), side) for path in paths[part]))

    # Pillow lets go of the interpreter while it decodes, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(0, len(paths), 256)):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
