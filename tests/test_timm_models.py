"""Networks of timm: built, masked, trained, planned and exported like any other, and a clear word without timm."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from granet import flops
from granet.checkpoint import load
from granet.errors import ModelError, UnknownNameError
from granet.layers.maskable import maskable
from granet.models import build, from_checkpoint, is_factory, outline
from granet_cli.app import run
from tests.synthetic import write_image_folder

SMALL = "mobilenetv3_small_050"


@pytest.mark.parametrize(
    ("name", "layers", "weights"),
    [
        ("resnet18", 21, 11_678_912),
        ("resnet50", 54, 25_502_912),
        ("efficientnet_b0", 82, None),
        (SMALL, 54, None),
        ("convnext_tiny", 59, None),
    ],
)
def test_convolutions_and_linear_layers_are_maskable(name, layers, weights):
    network = outline(f"timm:{name}", in_channels=3, classes=1000, image_size=224)
    found = maskable(network)
    assert len(found) == layers
    assert {weight.ndim for weight in found.values()} == {2, 4}
    assert all(weight.device.type == "meta" for weight in found.values())
    if weights is not None:
        assert sum(math.prod(weight.shape) for weight in found.values()) == weights
    assert flops.layers(network, (3, 224, 224)).keys() >= found.keys()


def test_networks_follow_the_data_and_the_seed():
    one, same, other = (
        build(f"timm:{SMALL}", in_channels=1, classes=5, image_size=32, seed=seed) for seed in (0, 0, 1)
    )
    assert one(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.conv_stem.weight, other.conv_stem.weight)


def test_a_timm_name_is_not_code_of_the_user():
    assert not is_factory(f"timm:{SMALL}")
    assert is_factory("timmm:resnet18")


def test_unknown_networks_get_the_nearest_one_and_nothing_is_downloaded():
    with pytest.raises(UnknownNameError, match=r"timm model 'resnet5O'.*'resnet50'"):
        build("timm:resnet5O", in_channels=3, classes=10, image_size=32)
    with pytest.raises(UnknownNameError, match="unknown timm model"):
        build("timm:hf-hub:timm/resnet18.a1_in1k", in_channels=3, classes=10, image_size=32)
    with pytest.raises(ModelError, match=r"does not download; got the weights 'a1_in1k'\. Name timm:resnet18, and"):
        build("timm:resnet18.a1_in1k", in_channels=3, classes=10, image_size=32)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ModelError, match=r"need timm, which is not installed\. Install it with pip .*'granet\[timm]'"):
        build("timm:resnet18", in_channels=3, classes=10, image_size=32)


def test_a_timm_that_cannot_be_imported_is_distinguished_from_a_missing_one(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "timm.py").write_text("import torch.of_another_version")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"timm cannot be imported; got ModuleNotFoundError: .*of_another_version"):
        build("timm:resnet18", in_channels=3, classes=10, image_size=32)


def test_a_network_of_timm_is_trained_planned_inspected_and_exported(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images", size=32)
    settings = [
        *("--data", "images", "--model", f"timm:{SMALL}", "--epochs", "2", "--batch-size", "5"),
        *("--set", "method.interval=1it", "--lr", "0.01"),
    ]

    assert run(["plan", *settings[:-2], "--steps", "0", "--json"]) == 0
    planned = json.loads(capfd.readouterr().out)

    assert run(["train", *settings, "--out", "run", "--json"]) == 0
    capfd.readouterr()
    checkpoint = load("run/last.safetensors")
    assert checkpoint.network.name == f"timm:{SMALL}"
    assert sum(int(mask.sum()) for mask in checkpoint.masks.values()) == planned["active"]

    assert run(["inspect", "run/last.safetensors", "--json"]) == 0
    inspected = json.loads(capfd.readouterr().out)
    assert inspected["active"] == planned["active"]
    network = from_checkpoint(checkpoint)
    for name, mask in checkpoint.masks.items():
        assert not network.get_parameter(name)[~mask].any()

    assert run(["export", "--onnx", "run/last.safetensors", "-o", "sparse.onnx"]) == 0  # proves itself
