"""A look inside a checkpoint: counts from the masks, dead channels, costs, and what made it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from granet import flops
from granet.analysis.inspection import channels_in_use, inspect
from granet.checkpoint import Checkpoint, Network
from granet.layers.axes import WeightAxes
from granet.models import build
from granet.recipe import Recipe

GROUPED = """
from torch import nn

def network(in_channels, classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 6, 1, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
    )
"""


def checkpoint(name: str = "resnet8", **changes: object) -> Checkpoint:
    """A checkpoint of a network on 8 x 8 grey images whose weights with two dimensions or more are all active."""
    network = build(name, in_channels=1, classes=2, image_size=8)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items() if weight.ndim > 1}
    value = Checkpoint(
        weights=weights,
        masks=masks,
        buffers=dict(network.named_buffers()),
        explored=masks,
        optimizer={},
        accumulators={},
        recipe=Recipe.load("quickstart"),
        step=30,
        network=Network(name=name, in_channels=1, classes=("a", "b"), image_size=8, mean=(0.5,), std=(0.5,)),
        progress={"steps_per_epoch": 20, "total_steps": 120},
        metrics={"best": {"accuracy": 0.75}},
    )
    return dataclasses.replace(value, **changes)


def half(weight: Tensor) -> Tensor:
    """A mask whose first half of rows is active."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[: len(mask) // 2] = True
    return mask


def test_counts_come_from_the_masks() -> None:
    dense = checkpoint()
    masks = {**dense.masks, "layer1.0.conv2.weight": half(dense.masks["layer1.0.conv2.weight"])}
    report = inspect(dataclasses.replace(dense, masks=masks))
    layer = next(layer for layer in report.layers if layer.name == "layer1.0.conv2.weight")
    assert (layer.shape, layer.parameters, layer.active, layer.density) == ((16, 16, 3, 3), 2304, 1152, 0.5)
    assert (layer.inputs, layer.dead_inputs, layer.outputs, layer.dead_outputs) == (16, 0, 16, 8)
    assert layer.explored == 1.0
    assert report.parameters == sum(layer.parameters for layer in report.layers)
    assert report.active == report.parameters - 1152
    assert report.density == report.active / report.parameters
    assert report.total_parameters == sum(weight.numel() for weight in dense.weights.values())


def test_layers_come_in_the_order_of_the_network() -> None:
    shuffled = dict(sorted(checkpoint().masks.items(), reverse=True))
    names = [layer.name for layer in inspect(checkpoint(masks=shuffled)).layers]
    assert names[0] == "conv1.weight"
    assert names[-1] == "fc.weight"


def test_costs_are_shared_out_by_active_flops() -> None:
    dense = checkpoint()
    masks = {name: half(mask) for name, mask in dense.masks.items() if name != "fc.weight"}
    report = inspect(dataclasses.replace(dense, masks=masks, explored=masks))
    network = build("resnet8", in_channels=1, classes=2, image_size=8)
    costs = flops.layers(network, (1, 8, 8))
    active = sum(costs.values()) / 2 + costs["fc.weight"] / 2
    assert report.flops == {"dense": sum(costs.values()), "active": pytest.approx(active)}
    assert report.layers[0].flops_share == pytest.approx(costs["conv1.weight"] / 2 / active)
    kept_dense = 1 - sum(layer.flops_share or 0.0 for layer in report.layers)
    assert kept_dense == pytest.approx(costs["fc.weight"] / active)


def test_exploration_is_the_share_ever_active() -> None:
    masks = checkpoint().masks
    report = inspect(checkpoint(masks={name: half(mask) for name, mask in masks.items()}))
    assert report.density == 0.5
    assert report.exploration == 1.0


def test_recipe_and_progress_are_reported() -> None:
    report = inspect(checkpoint())
    assert (report.recipe, report.method, report.model, report.data) == (
        "quickstart",
        "granet",
        "resnet8",
        "fashion-mnist-subset",
    )
    assert (report.step, report.total_steps, report.epoch) == (30, 120, 1.5)
    assert (report.best_validation_accuracy, report.test_accuracy) == (0.75, None)


def test_unknown_progress_and_accuracies_are_none() -> None:
    report = inspect(checkpoint(progress={}, metrics={"best": "none", "test": {"accuracy": float("nan")}}))
    assert report.total_steps is report.epoch is None
    assert report.best_validation_accuracy is report.test_accuracy is None


def test_the_report_is_fit_for_json() -> None:
    report = json.loads(json.dumps(inspect(checkpoint()).as_json(), allow_nan=False))
    assert report["layers"][0]["shape"] == [16, 1, 3, 3]
    assert {"parameters", "active", "density", "step", "layers", "flops"} <= report.keys()
    assert {"name", "shape", "parameters", "active", "density"} <= report["layers"][0].keys()
    assert report["flops"].keys() == {"dense", "active"}


# Channels


@pytest.mark.parametrize(
    ("layer", "active"),
    [
        (nn.Linear(3, 2), [(1, 2)]),
        (nn.Conv2d(4, 6, 3), [(5, 0, 1, 1), (2, 3, 0, 0)]),
        (nn.Conv2d(4, 8, 3, groups=2), [(1, 1, 0, 0), (6, 0, 2, 2)]),
        (nn.Conv2d(6, 6, 3, groups=6), [(4, 0, 1, 2)]),
        (nn.ConvTranspose2d(4, 6, 2), [(3, 5, 1, 1)]),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), [(0, 2, 1, 1), (3, 0, 0, 1)]),
    ],
)
def test_channels_in_use_are_those_that_a_layer_connects(layer: nn.Module, active: list[tuple[int, ...]]) -> None:
    weight = layer.get_parameter("weight")
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for position in active:
        mask[position] = True
    with torch.no_grad():
        weight.copy_(mask)
        layer.get_parameter("bias").zero_()
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    images = torch.ones((1, channels) if isinstance(layer, nn.Linear) else (1, channels, 4, 4), requires_grad=True)
    output = layer(images)
    output.sum().backward()
    axes = WeightAxes.of(layer)
    inputs, outputs = channels_in_use(mask, axes)
    assert inputs.tolist() == images.grad[0].reshape(channels, -1).any(1).tolist()
    assert outputs.tolist() == output[0].flatten(1 if output.ndim > 2 else 0).reshape(len(outputs), -1).any(1).tolist()


# Networks that are not in the catalog


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    (tmp_path / "own_grouped.py").write_text(GROUPED)
    monkeypatch.chdir(tmp_path)
    return checkpoint("own_grouped:network")


def test_a_users_network_is_rebuilt_only_when_confirmed(grouped: Checkpoint) -> None:
    report = inspect(grouped)
    assert report.flops is None
    assert all(layer.flops_share is None for layer in report.layers)
    assert report.density == 1.0
    assert "names code to run" in report.notes[0]
    assert "as if no convolution were grouped" in report.notes[1]


def test_groups_are_known_once_the_network_is(grouped: Checkpoint) -> None:
    report = inspect(grouped, factory="own_grouped:network")
    assert report.notes == ()
    assert [(layer.inputs, layer.outputs) for layer in report.layers] == [(1, 4), (4, 4), (4, 6), (6, 2)]
    assert report.flops is not None


def test_a_network_that_cannot_be_rebuilt_leaves_the_counts(grouped: Checkpoint) -> None:
    gone = dataclasses.replace(grouped, network=dataclasses.replace(grouped.network, name="no_such_module:network"))
    report = inspect(gone, factory="no_such_module:network")
    assert report.flops is None
    assert "there is no module 'no_such_module'" in report.notes[0]
    assert report.active == report.parameters


def test_a_name_that_builds_another_network_now_is_noticed() -> None:
    made_of = dataclasses.replace(checkpoint().network, name="resnet20")
    report = inspect(checkpoint(network=made_of))
    assert report.flops is None
    assert "layer1.1.conv1.weight" in report.notes[0]


def test_sizes_in_a_file_are_not_trusted_with_memory() -> None:
    huge = dataclasses.replace(checkpoint().network, name="lenet-300-100", image_size=10_000_000)
    report = inspect(checkpoint(network=huge))
    assert report.flops is None
    assert "differs in 'conv1.weight'" in report.notes[0]
