"""The ImageNet recipe end to end, in folders and in shards, stopped and resumed: the command, on a tiny network."""

from __future__ import annotations

import pytest

from granet.errors import UsageError
from granet.recipe import Recipe
from scripts.imagenet_small import Size, compare
from tests.synthetic import write_image_folder


def test_folders_and_shards_stopped_or_not_train_alike(tmp_path):
    images = write_image_folder(tmp_path / "images", per_class=8)
    recipe = Recipe.load("imagenet-resnet50-granet").stretched(2)
    tiny = {"model.name": "resnet8", "data.image_size": 16, "data.workers": 0}
    recipe = recipe.override({**tiny, "method.interval": "1it", "training.batch_size": 4})
    size = Size(classes=3, train=5, test=2, side=20)
    rows = compare(recipe, images, tmp_path / "work", size, per_shard=4, stop_after=2)
    assert [(row.data, row.stopped_at) for row in rows] == [
        ("image-folder", None),
        ("image-folder", 2),
        ("tar-shards", None),
        ("tar-shards", 2),
    ]
    assert {row.steps for row in rows} == {6}
    assert {round(row.density, 3) for row in rows} == {0.1}
    assert len({row.test_accuracy for row in rows}) == 1


def test_images_that_are_not_there_are_missed(tmp_path):
    images, recipe = write_image_folder(tmp_path / "images", per_class=3), Recipe.load("imagenet-resnet50-granet")
    with pytest.raises(UsageError, match="too few images; got 3; expected 5"):
        compare(recipe, images, tmp_path / "work", Size(classes=2, train=5, test=1, side=8), per_shard=4, stop_after=1)
