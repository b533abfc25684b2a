"""Image files as pixels, decoded by Pillow, and the views of them that training and evaluation see."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from granet.data.augment import CropWindow
from granet.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""Formats that are read. Pillow knows more, among them EPS, which it passes to another program."""

WHOLE = 224 / 256
"""The share of the shorter side that the central crop of evaluation keeps; the convention for ImageNet."""

_SLENDER = 16
"""The largest ratio of an image's sides before its ends are cut off: a line of pixels, resized by its shorter side,
would take all memory."""

_SMALL = 1 << 17
"""Files of up to this many bytes are read in one call."""

Where = Callable[[], object]
"""Return what to call an image in a message; called only when there is one."""


class ImageReader(ABC):
    """Reads the images of a split from disk; small enough to be copied to every worker process."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def source(self, index: int) -> tuple[str | BytesIO, Where]:
        """Return the path or the bytes of an image file, and what to call it in a message.

        Raises:
            DataError: it cannot be read; it is named.
        """

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Yield images in RGB, each decoded when it is asked for.

        Raises:
            DataError: one cannot be read; it is named.
        """
        return (_decoded(*self.source(index)) for index in indices)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Yield width and height of each image, from its header.

        Raises:
            DataError: one cannot be read; it is named.
        """
        return (_size(*self.source(index)) for index in range(len(self)))


class PathReader(ImageReader):
    """Reads image files by their paths.

    Paths are one array of bytes rather than a list of objects, which for ImageNet would cost each worker hundreds
    of megabytes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self._paths)

    def source(self, index: int) -> tuple[str, Where]:
        """Return the path."""
        path = os.fsdecode(self._paths[index])
        return path, lambda: Path(path)


def _unreadable(error: Exception, where: object) -> DataError:
    return DataError(
        "cannot be read as an image",
        where=where,
        # Pillow's own message names the object in memory that it was given.
        got="no image, or one of another kind" if isinstance(error, UnidentifiedImageError) else error,
        expected=f"a sound {', '.join(FORMATS)} file",
        remedy="replace it, or remove it before training",
    )


def _size(source: str | BytesIO, where: Where) -> tuple[int, int]:
    try:
        with Image.open(source, formats=FORMATS) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise many kinds of errors when a file is damaged.
        raise _unreadable(error, where()) from error


def load(path: Path | str) -> Image.Image:
    """Return the image in ``path``, decoded, in RGB.

    Pillow's limit on the number of pixels is left as it is, so a decompression bomb is an error too.

    Raises:
        DataError: it cannot be read, is not an image, is damaged, or has more than 8 bits per channel.
    """
    return _decoded(os.fspath(path), lambda: Path(path))


def _decoded(source: str | BytesIO, where: Where) -> Image.Image:
    try:
        with Image.open(_at_once(source) if isinstance(source, str) else source, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    "images of this pixel format are not supported",
                    where=where(),
                    got=f"mode {image.mode}",
                    expected="8 bits per channel",
                    remedy="convert it",
                )
            image.load()
            # Pillow warns of a transparent palette unless it becomes RGBA first.
            whole = image.convert("RGBA") if "transparency" in image.info else image
            return whole if whole.mode == "RGB" else whole.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds of errors when a file is damaged.
        raise _unreadable(error, where()) from error


def _at_once(path: str) -> str | BytesIO:
    """Return a small file's bytes, read in one call, which saves a tenth of the smallest ones' time; or the path."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        data = os.read(descriptor, _SMALL)
        # A larger file has more, and so may a small one when the system call was interrupted.
        return BytesIO(data) if not os.read(descriptor, 1) else path
    finally:
        os.close(descriptor)


def common_side(sizes: Iterable[tuple[int, int]]) -> int | None:
    """Return the height and width of images of these sizes if they are all square and equally large, else None.

    Stops at the first image that differs.
    """
    side = None
    for width, height in sizes:
        if width != height or side not in (None, width):
            return None
        side = width
    return side


def evaluation_view(image: Image.Image, side: int) -> Image.Image:
    """Return what evaluation sees: an image of that size as it is; any other resized, and its central square.

    The shorter side becomes ``side / WHOLE`` pixels, by bilinear interpolation; 256 for 224. Sizes and positions are
    rounded as torchvision's ``Resize`` and ``CenterCrop`` do, with which results on ImageNet are published.
    """
    if image.size == (side, side):
        return image
    longest = _SLENDER * min(image.size)
    if max(image.size) > longest:
        image = _middle(image, min(image.width, longest), min(image.height, longest))
    target, shorter = round(side / WHOLE), min(image.size)
    width, height = (target * length // shorter for length in image.size)
    return _middle(image.resize((width, height), Image.Resampling.BILINEAR), side, side)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def window_view(image: Image.Image, window: CropWindow, side: int) -> Image.Image:
    """Return what training sees: the image through the window, black beyond its edges, ``side`` pixels square."""
    top, left, height, width, flip = window
    seen = image.crop((left, top, left + width, top + height))
    if seen.size != (side, side):
        seen = seen.resize((side, side), Image.Resampling.BILINEAR)
    return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else seen


def fill(pixels: NDArray[np.uint8], images: Iterable[Image.Image]) -> None:
    """Write RGB images, each as soon as it comes, into ``pixels`` [N, H, W, 3], which has their sizes."""
    for target, image in zip(pixels, images, strict=True):
        target[:] = np.frombuffer(image.tobytes(), np.uint8).reshape(target.shape)


def fill_window(pixels: NDArray[np.uint8], image: Image.Image, window: CropWindow) -> None:
    """Write the :func:`window_view` of an RGB image, through a window of the image's size, into ``pixels`` [S, S, 3].

    Pixels are copied once, to their place in the window, rather than cut out first.
    """
    side, top, left = len(pixels), window.top, window.left
    if window.flip:
        image, left = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), -left
    top, left = (max(-side, min(shift, side)) for shift in (top, left))  # beyond that nothing is seen
    whole = np.ndarray((side, 3 * side), np.uint8, image.tobytes())
    seen = pixels.reshape(side, 3 * side)
    rows, columns = slice(max(-top, 0), side - max(top, 0)), slice(3 * max(-left, 0), 3 * (side - max(left, 0)))
    seen[rows, columns] = whole[rows.start + top : rows.stop + top, columns.start + 3 * left : columns.stop + 3 * left]
    if top:
        seen[slice(-top) if top < 0 else slice(side - top, side)] = 0
    if left:
        seen[:, slice(-3 * left) if left < 0 else slice(3 * (side - left), 3 * side)] = 0


def load_all(reader: ImageReader, side: int) -> Tensor:
    """Return all images as evaluation sees them: uint8 [N, 3, side, side], contiguous.

    Raises:
        DataError: an image cannot be read; of several the first is named.
    """
    count = len(reader)
    pixels = np.empty((count, side, side, 3), dtype=np.uint8)

    def decode(start: int) -> None:
        part = range(count)[start : start + 256]
        fill(pixels[part.start : part.stop], (evaluation_view(image, side) for image in reader.images(part)))

    # Pillow releases the interpreter lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(0, count, 256)):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
