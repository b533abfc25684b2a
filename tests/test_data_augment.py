"""Crops and flips: a whole batch at once must come out as image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from granet.data.augment import (
    AREA,
    AUGMENTATIONS,
    CropWindow,
    CropWindows,
    apply,
    crop_rows,
    crop_views,
    draw_batch,
    draw_each,
    draw_one,
)
from granet.data.images import fill, fill_window, window_view
from granet.randomness import generator

seeds = st.integers(0, 10_000)


def pillow_images(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images]


def stack(images: list[Image.Image], size: int) -> torch.Tensor:
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    fill(pixels, images)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def noise(count: int, size: int, seed: int) -> torch.Tensor:
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, generator=generator(seed, "test"), dtype=torch.uint8)


@given(seed=seeds, size=st.integers(5, 12), augment=st.sampled_from(["crop", "crop-flip"]))
def test_a_batch_is_cropped_and_flipped_as_pillow_does_it(seed, size, augment):
    images = noise(6, size, seed)
    windows = draw_batch(augment, generator(seed), 6, size, size)
    expected = [
        window_view(image, CropWindow(*box.tolist(), bool(flip)), size)
        for image, box, flip in zip(pillow_images(images), windows.boxes, windows.flips, strict=True)
    ]
    assert torch.equal(apply(augment, images, windows), stack(expected, size))


@given(seed=seeds, size=st.integers(5, 32))
def test_a_batch_is_resized_as_pillow_does_it_but_for_rounding(seed, size):
    images = noise(6, size, seed)
    windows = draw_batch("resized-crop-flip", generator(seed), 6, size, size)
    expected = [
        window_view(image, CropWindow(*box.tolist(), bool(flip)), size)
        for image, box, flip in zip(pillow_images(images), windows.boxes, windows.flips, strict=True)
    ]
    difference = apply("resized-crop-flip", images, windows).int() - stack(expected, size).int()
    assert difference.abs().max() <= 2


@given(seed=seeds, count=st.integers(1, 6), channels=st.sampled_from([1, 3]), size=st.integers(1, 33))
def test_rows_copied_as_items_make_the_same_crops_as_views(seed, count, channels, size):
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator(seed), dtype=torch.uint8)
    boxes = draw_batch("crop", generator(seed), count, size, size).boxes
    expected = crop_views(images, boxes)
    assert torch.equal(crop_rows(images, boxes), expected)
    assert torch.equal(crop_rows(images.contiguous(memory_format=torch.channels_last), boxes), expected)


@given(seed=seeds, augment=st.sampled_from(AUGMENTATIONS), height=st.integers(1, 9999), width=st.integers(1, 9999))
def test_drawing_for_one_image_is_drawing_for_a_batch_of_one(seed, augment, height, width):
    windows = draw_batch(augment, generator(seed), 1, height, width)
    window = draw_one(augment, generator(seed)).window(height, width)
    assert window == (*windows.boxes[0].tolist(), bool(windows.flips[0]))
    assert all(type(number) in (int, bool) for number in window)


@given(seed=seeds, augment=st.sampled_from(AUGMENTATIONS), count=st.integers(1, 5))
def test_drawing_for_many_images_is_drawing_for_each(seed, augment, count):
    numbers = range(seed, seed + count)
    each = [draw_one(augment, torch.Generator().manual_seed(number)) for number in numbers]
    assert draw_each(augment, numbers) == each
    assert [type(drawn.flip) for drawn in draw_each(augment, numbers)] == [bool] * count


@given(seed=seeds, size=st.integers(1, 9), top=st.integers(-4, 4), left=st.integers(-4, 4), flip=st.booleans())
def test_a_window_is_written_as_pillow_sees_it(seed, size, top, left, flip):
    (image,) = pillow_images(noise(1, size, seed))
    window = CropWindow(top, left, size, size, flip)
    pixels = torch.full((size, size, 3), 7, dtype=torch.uint8).numpy()
    fill_window(pixels, image, window)
    assert pixels.tobytes() == window_view(image, window, size).tobytes()


def test_a_crop_reaches_into_black_padding():
    corner = CropWindows(torch.tensor([[-4, -4, 6, 6]]), torch.tensor([False]))
    seen = apply("crop", torch.full((1, 1, 6, 6), 255, dtype=torch.uint8), corner)
    assert seen[0, 0, :4].sum() == seen[0, 0, :, :4].sum() == 0
    assert seen[0, 0, 4:, 4:].eq(255).all()


@given(seed=seeds, height=st.integers(1, 300), width=st.integers(1, 300))
def test_resized_crops_lie_within_the_image(seed, height, width):
    boxes = draw_batch("resized-crop-flip", generator(seed), 16, height, width).boxes
    top, left, tall, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall > 0).all()
    assert (wide > 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


def test_the_area_of_resized_crops_covers_its_range():
    boxes = draw_batch("resized-crop-flip", generator(0), 4000, 224, 224).boxes
    share = (boxes[:, 2] * boxes[:, 3]) / (224 * 224)
    assert share.min() == pytest.approx(AREA[0], abs=0.01)
    assert share.max() > 0.9


def test_crops_and_flips_are_uniform():
    windows = draw_batch("crop-flip", generator(0), 9000, 32, 32)
    for starts in windows.boxes[:, :2].T:
        counts = (starts + 4).bincount(minlength=9)
        assert len(counts) == 9
        assert counts.min() > 850
    assert 0.45 < windows.flips.float().mean() < 0.55
