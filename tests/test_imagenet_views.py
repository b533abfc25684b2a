"""What training and evaluation see of large images, beside the transforms of torchvision that the papers used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from granet.data.augment import CropWindow, draw_one
from granet.data.images import evaluation_view, window_view
from granet.models.torchvision_guard import import_torchvision


@pytest.fixture(scope="module")
def transforms():
    import_torchvision()
    from torchvision import transforms

    return transforms


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(256, 256), (500, 375), (375, 500), (333, 499), (257, 1000), (100, 60), (225, 224)])
def test_the_view_of_evaluation_is_that_of_torchvision(transforms, size):
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(noise(*size))
    assert evaluation_view(noise(*size), 224).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 375, 500), (10, 20, 300, 280), (5, 7, 40, 50)])
def test_a_training_crop_is_resized_as_torchvision_resizes_it(transforms, box, flip):
    theirs = transforms.functional.resized_crop(noise(500, 375), *box, [224, 224])
    theirs = transforms.functional.hflip(theirs) if flip else theirs
    assert window_view(noise(500, 375), CropWindow(*box, flip), 224).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000)])
def test_images_too_long_for_any_crop_get_torchvision_s_central_one(transforms, size):
    theirs = transforms.RandomResizedCrop.get_params(noise(*size), (0.08, 1.0), (3 / 4, 4 / 3))
    window = draw_one("resized-crop-flip", torch.Generator().manual_seed(0)).window(size[1], size[0])
    assert tuple(window)[:4] == theirs


def test_training_crops_are_spread_as_torchvision_s(transforms):
    image, count = noise(500, 375), 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)]
    source = torch.Generator().manual_seed(1)
    mine = [tuple(draw_one("resized-crop-flip", source).window(375, 500))[:4] for _ in range(count)]
    for quantity in (
        lambda top, left, height, width: height * width / (500 * 375),
        lambda top, left, height, width: np.log(width / height),
        lambda top, left, height, width: top / (375 - height + 1),
        lambda top, left, height, width: left / (500 - width + 1),
    ):
        tenths = np.arange(0.1, 1, 0.1)
        one, other = (np.quantile([quantity(*box) for box in boxes], tenths) for boxes in (mine, theirs))
        assert np.abs(one - other).max() < 0.04
