"""Channels last, which a GPU gets, changes nothing but rounding; and states that are laid out so resume exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from granet.checkpoint import load
from granet.errors import Interrupted
from granet.recipe import Recipe
from granet.training import RunFolder, resume, train
from tests.synthetic import arrays_dataset

CPU, FORMAT = torch.device("cpu"), "training.memory_format"
RECIPE = """
    name = "tiny"
    model.name = "resnet8"
    data = {name = "image-folder", augment = "crop-flip"}
    method = {name = "granet", density = 0.2, interval = "3it", end = "9it"}
    optimizer = {name = "sgd", learning_rate = 0.02, momentum = 0.9, weight_decay = 1e-4}
    schedule.name = "constant"
    training = {epochs = 2, batch_size = 5}
"""


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    runs = RunFolder(tmp_path_factory.mktemp("usual"))
    train(Recipe.from_toml(RECIPE, where="test"), runs, CPU, dataset=arrays_dataset())
    return runs


def test_channels_last_trains_to_the_same_masks_and_resumes_exactly(usual: RunFolder, tmp_path: Path) -> None:
    recipe, data = Recipe.from_toml(RECIPE, where="test").override({FORMAT: "channels_last"}), arrays_dataset()
    whole, stopped, asked = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped"), iter(range(100))
    train(recipe, whole, CPU, dataset=data)
    with pytest.raises(Interrupted):
        train(recipe, stopped, CPU, dataset=data, stop=lambda: next(asked) >= 7)
    resume(stopped, CPU, dataset=data)
    assert stopped.last.read_bytes() == whole.last.read_bytes()

    one, other = load(usual.last), load(whole.last)
    for name, mask in one.masks.items():
        assert torch.equal(other.masks[name], mask), name
        assert not other.weights[name][~mask].any()
    for name, weight in one.weights.items():
        torch.testing.assert_close(other.weights[name], weight, rtol=1e-3, atol=1e-5)
