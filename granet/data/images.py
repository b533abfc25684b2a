"""Image files as pixels: Pillow decodes, and an unreadable file is an error that names it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from granet.data.augment import CropWindow
from granet.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What an image may be. Pillow knows more, among them EPS, which it hands to another program to run."""

WHOLE = 224 / 256
"""The share of its shorter side that evaluation sees of an image that has to be resized; the custom for ImageNet."""

_SLENDER = 16
"""How many times as long as wide an image may be before its ends are cut off. A line of pixels, enlarged until it is
as wide as a network wants it, would take all memory."""

_SMALL = 1 << 17
"""Bytes of a file that are read at once."""

Where = Callable[[], object]
"""What to call an image in a message; asked for only when there is one."""


class ImageReader(Protocol):
    """Reads the images of a split from disk; small enough to be copied to every worker process."""

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """The images there, in RGB, each decoded when it is asked for.

        Raises:
            DataError: one cannot be read; it is named.
        """
        ...

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Width and height of each image, from its header.

        Raises:
            DataError: one cannot be read; it is named.
        """
        ...


class PathReader:
    """Reads image files by their paths, see :class:`ImageReader`.

    Paths are one array of bytes rather than a list of objects, which for ImageNet would cost each worker hundreds
    of megabytes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = np.array([os.fsencode(path) for path in paths])

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """The images there, each decoded when it is asked for."""
        paths = self._paths[np.asarray(indices, np.int64)].tolist()
        return (load(os.fsdecode(path)) for path in paths)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Width and height of each image, from its header."""
        for encoded in self._paths:
            path = os.fsdecode(encoded)
            yield _size(path, lambda path=path: Path(path))  # type: ignore[misc]


def _unreadable(error: Exception, where: object) -> DataError:
    return DataError(
        "cannot be read as an image",
        where=where,
        # Pillow would tell of the object in memory that it was given.
        got="no image, or one of another kind" if isinstance(error, UnidentifiedImageError) else error,
        expected=f"a sound {', '.join(FORMATS)} file",
        remedy="replace or remove it",
    )


def _size(source: str | BytesIO, where: Where) -> tuple[int, int]:
    try:
        with Image.open(source, formats=FORMATS) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise many kinds of errors when a file is damaged.
        raise _unreadable(error, where()) from error


def load(path: Path | str) -> Image.Image:
    """The image in ``path``, decoded, in RGB.

    Pillow's limit on the number of pixels is left as it is, so a decompression bomb is an error too.

    Raises:
        DataError: it cannot be read, is not an image, is damaged, or has more than 8 bits per channel.
    """
    return _decoded(os.fspath(path), lambda: Path(path))


def decode(data: bytes, where: Where) -> Image.Image:
    """The image in the bytes of a file, as :func:`load`."""
    return _decoded(BytesIO(data), where)


def _decoded(source: str | BytesIO, where: Where) -> Image.Image:
    try:
        with Image.open(_at_once(source) if isinstance(source, str) else source, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    "images of this kind are not supported",
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
    """A small file's bytes, read in one go, which for the smallest is a tenth of all their time; or the path."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        data = os.read(descriptor, _SMALL)
        # That is not all of a larger file, nor need it be where the system has been interrupted.
        return BytesIO(data) if not os.read(descriptor, 1) else path
    finally:
        os.close(descriptor)


def size_of(data: bytes, where: Where) -> tuple[int, int]:
    """Width and height of the image in the bytes of a file, from its header.

    Raises:
        DataError: it is not an image.
    """
    return _size(BytesIO(data), where)


def common_side(sizes: Iterable[tuple[int, int]]) -> int | None:
    """The height and width of images of these sizes if they are all square and equally large, else None.

    Stops at the first image that differs.
    """
    side = None
    for width, height in sizes:
        if width != height or side not in (None, width):
            return None
        side = width
    return side


def whole_view(image: Image.Image, side: int) -> Image.Image:
    """What evaluation sees: an image of that size as it is; any other resized, and its central square.

    The shorter side becomes ``side / WHOLE`` pixels, by bilinear interpolation; 256 for 224. Sizes and positions are
    rounded as torchvision's ``Resize`` and ``CenterCrop`` do, with which results on ImageNet are published.
    """
    if image.size == (side, side):
        return image
    longest = _SLENDER * min(image.size)
    if max(image.size) > longest:  # the middle is all that is seen, and the whole would be enlarged beyond all bounds
        image = _middle(image, min(image.width, longest), min(image.height, longest))
    target, shorter = round(side / WHOLE), min(image.size)
    width, height = (target * length // shorter for length in image.size)
    return _middle(image.resize((width, height), Image.Resampling.BILINEAR), side, side)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def window_view(image: Image.Image, window: CropWindow, side: int) -> Image.Image:
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


def fill_window(pixels: NDArray[np.uint8], image: Image.Image, window: CropWindow) -> None:
    """Writes what :func:`window_view` shows of an RGB image through a window of its own size into ``pixels`` [S, S, 3].

    Pixels are copied once, to where the window has them, rather than cut out first.
    """
    side, top, left = len(pixels), window.top, window.left
    if window.flip:
        image, left = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), -left
    top, left = (max(-side, min(shift, side)) for shift in (top, left))  # nothing is seen from there on
    whole = np.ndarray((side, 3 * side), np.uint8, image.tobytes())
    seen = pixels.reshape(side, 3 * side)
    rows, columns = slice(max(-top, 0), side - max(top, 0)), slice(3 * max(-left, 0), 3 * (side - max(left, 0)))
    seen[rows, columns] = whole[rows.start + top : rows.stop + top, columns.start + 3 * left : columns.stop + 3 * left]
    if top:
        seen[slice(-top) if top < 0 else slice(side - top, side)] = 0
    if left:
        seen[:, slice(-3 * left) if left < 0 else slice(3 * (side - left), 3 * side)] = 0


def stack(images: Sequence[Image.Image], side: int) -> Tensor:
    """RGB images of ``side`` pixels square as uint8 [N, 3, side, side]; memory is channels last, as Pillow's is."""
    pixels = np.empty((len(images), side, side, 3), np.uint8)
    fill(pixels, images)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def load_all(reader: ImageReader, count: int, side: int) -> Tensor:
    """All ``count`` images as evaluation sees them: uint8 [N, 3, side, side], contiguous.

    Raises:
        DataError: as :func:`load`; of several bad files the first is named.
    """
    pixels = np.empty((count, side, side, 3), dtype=np.uint8)

    def decode(start: int) -> None:
        part = range(count)[start : start + 256]
        fill(pixels[part.start : part.stop], (whole_view(image, side) for image in reader.images(part)))

    # Pillow lets go of the interpreter while it decodes, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(0, count, 256)):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
