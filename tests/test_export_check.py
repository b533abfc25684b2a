"""What ``granet train`` says at the start about an export at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.export_check import obstacle
from granet.layers.maskable import maskable
from tests import constant_networks
from tests import export_networks as networks
from tests.conftest import Granet
from tests.synthetic import write_image_folder

WARNING = "warning: this network can be trained, but granet export --onnx would refuse it:"


def found(factory: Callable[[], nn.Module]) -> str | None:
    model = factory()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in maskable(model).items()}
    images = torch.zeros(2, networks.CHANNELS, networks.SIZE, networks.SIZE)
    return obstacle(model, masks, images, where="mine:net")


class OfItsOwnBatch(networks.Flat):
    """Flattens by the number of images that it sees when it is traced."""

    def __init__(self) -> None:
        super().__init__(lambda logits: torch.cat([row[None] for row in logits]))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (networks.bessel, r"torch cannot export this network .*, operator prims.bessel_j0"),
        (networks.branching, r"torch cannot export this network .*data-dependent.*, line \S+\.py:\d+ in <?\w+"),
        (networks.random, "the outputs of the torch network vary from run to run"),
        (networks.doubling, r"fc.weight: a masked weight is not in the exported graph"),
        (OfItsOwnBatch, "the network fixes the number of images while torch traces it"),
    ],
)
def test_what_an_export_would_refuse_is_known_before(factory: Callable[[], nn.Module], said: str) -> None:
    assert (sentence := found(factory)) is not None
    assert re.search(said, sentence)


@pytest.mark.parametrize("factory", [networks.small, constant_networks.PositionBias])
def test_nothing_is_said_of_a_network_that_can_be_exported(factory: Callable[[], nn.Module]) -> None:
    assert found(factory) is None


def test_the_check_leaves_the_network_and_random_numbers_as_they_are() -> None:
    model = networks.random().train()
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert obstacle(model, {}, torch.zeros(2, networks.CHANNELS, networks.SIZE, networks.SIZE), where="mine:net")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)


def settings(folder: Path, model: str) -> list[object]:
    images = write_image_folder(folder / "images") if not (folder / "images").exists() else folder / "images"
    return ["train", "--model", model, "--data", images, "--epochs", "1", "--batch-size", "4",
            "--set", "data.image_size=8", "--set", "method.interval=1it", "--device", "cpu"]  # fmt: skip


@pytest.mark.usefixtures("export_check")
def test_train_warns_before_it_starts_once_and_trains(granet: Granet, tmp_path: Path) -> None:
    arguments = settings(tmp_path, "tests.export_networks:random")
    answer = granet(*arguments, "--out", tmp_path / "run")
    assert answer.code == 0
    assert answer.err.count(WARNING) == 1
    assert "vary from run to run" in answer.err
    assert WARNING not in granet("train", "--resume", tmp_path / "run").err
    assert WARNING not in granet(*arguments, "--out", tmp_path / "other", "--no-export-check").err


@pytest.mark.usefixtures("export_check")
def test_networks_of_granet_itself_are_not_checked(
    granet: Granet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.export_check.obstacle", lambda *_, **__: "asked")
    assert WARNING not in granet(*settings(tmp_path, "resnet8"), "--out", tmp_path / "run").err
    assert (
        f"{WARNING} asked"
        in granet(*settings(tmp_path, "tests.export_networks:small"), "--out", tmp_path / "other").err
    )
