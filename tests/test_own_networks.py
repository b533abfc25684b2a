"""Networks of users: they train whatever they do with memory, and what cannot work is said before training."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exporters import tracing
from granet.checkpoint import load
from granet.data import Arrays, Dataset
from granet.errors import CheckpointError, ModelError, UsageError
from granet.files import user_code
from granet.models import from_checkpoint
from granet.recipe import Recipe
from granet.training import RunFolder, evaluate, resume, train
from granet.training.plan import plan
from granet.training.scoring import score
from granet.training.trial import Trial, placed
from granet_cli.app import run as granet
from tests import unusual_networks
from tests.synthetic import arrays_dataset, write_image_folder

CPU = torch.device("cpu")
NETWORKS = "tests.unusual_networks"
RECIPE = """
    name = "tiny"
    model.name = "resnet8"
    data.name = "image-folder"
    method = {name = "granet", density = 0.2, interval = "2it", end = "4it"}
    optimizer = {name = "sgd", learning_rate = 0.02, momentum = 0.9}
    schedule.name = "constant"
    training = {epochs = 1, batch_size = 5}
"""


def recipe(network: str, **settings: object) -> Recipe:
    return Recipe.from_toml(RECIPE).override({"model.name": f"{NETWORKS}:{network}", **settings})


@pytest.fixture(scope="module")
def channels_last() -> Dataset:
    """Images that lie in memory pixel by pixel, as decoders of files leave them."""
    dataset = arrays_dataset()

    def laid_out(part: Arrays) -> Arrays:
        return Arrays(part.images.contiguous(memory_format=torch.channels_last), part.labels)

    return replace(
        dataset,
        **{split: laid_out(getattr(dataset, split)) for split in ("train", "validation", "test")},
    )


# Memory layout


@pytest.mark.parametrize("network", ["View", "GroupedView", "Patches", "Contiguous", "TrainingView"])
def test_a_network_that_needs_contiguous_images_trains_resumes_and_evaluates(
    network: str, channels_last: Dataset, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    trained = train(recipe(network), run, CPU, dataset=channels_last)
    assert resume(run, CPU, dataset=channels_last) == trained
    scored = score(load(run.best), channels_last, "test", device=CPU, factory=f"{NETWORKS}:{network}")
    assert scored == trained


def test_a_network_that_fails_in_channels_last_is_told_the_setting(channels_last: Dataset, tmp_path: Path) -> None:
    asked = recipe("View", **{"training.memory_format": "channels_last"})
    with pytest.raises(
        ModelError, match=r"view size .*unusual_networks\.py, line \d+, in forward\).*memory_format = cont"
    ):
        train(asked, RunFolder(tmp_path / "run"), CPU, dataset=channels_last)


def test_where_nothing_is_asked_for_a_network_that_fails_in_channels_last_runs_contiguous() -> None:
    trial = Trial.of(recipe("View"), arrays_dataset(), CPU, "fp32")
    on_gpu = replace(trial, memory_format=torch.channels_last)  # what a GPU is fastest in
    network, tried = placed(unusual_networks.View(), on_gpu, asked=None)
    assert tried.memory_format is torch.contiguous_format
    assert network.conv.weight.is_contiguous()
    assert placed(unusual_networks.Length(), on_gpu, asked=None)[1].memory_format is torch.channels_last


def test_a_three_dimensional_convolution_trains_in_channels_last(channels_last: Dataset, tmp_path: Path) -> None:
    asked = recipe("Volume", **{"training.memory_format": "channels_last"})
    train(asked, RunFolder(tmp_path), CPU, dataset=channels_last)


# What a network returns, is wrapped in, or fixes

REFUSED = {
    "Auxiliary": r"got tuple of \(5, 3\), \(5, 3\) in training mode.*logits alone in training",
    "AuxiliaryDict": r"got dict with 'out': \(5, 3\), 'aux': \(5, 3\) in training mode",
    "EvaluationTuple": r"got tuple of \(1, 3\), \(1, 8, 3, 3\) in evaluation mode",
    "Named": r"got Pair of \(1, 3\), \(1, 8, 3, 3\)",
    "InDataclass": r"got Output in evaluation mode; .*return output\.logits",
    "Nothing": "got NoneType in evaluation mode.*Let forward return the logits",
    "Classes": r"got \(1, 3\) of torch\.int64 in evaluation mode",
    "Squeezed": r"got \(3,\) in evaluation mode; .*flatten\(1\) instead of flatten\(\), squeeze\(\)",
    "Map": r"got \(1, 3, 1, 1\) in evaluation mode; .*Reduce what follows the classes",
    "Detached": "the logits do not depend on any weight that trains",
    "FixedBatch": r"cannot take images of 3 x 8 x 8; .*any number of images, here one",
    "AtMost": r"cannot take a batch of 9 x 3 x 8 x 8 in evaluation mode; got AssertionError: at most 8 images \(tests",
    "Backward": r"cannot train on a batch of 5 x 3 x 8 x 8; got ValueError: no gradient today \(.*in backward\)",
    "InEvaluation": r"cannot take a batch of 9 x 3 x 8 x 8 in evaluation mode; got RuntimeError: .* in features\)",
    "Unused": r"the loss does not depend on these layers, .*got idle\. .*method\.dense=\[\"idle\"\]",
    "compiled": "a network inside a wrapper; got torch.compile; .*Let the factory return what it wraps; set training",
    "parallel": "a network inside a wrapper; got DataParallel; .*torchrun",
    "averaged": "a network inside a wrapper; got AveragedModel",
    "traced": "a network inside a wrapper; got torch.jit",
    "with_transform": "not a network; got tuple of Plain, dict; .*Let the factory return the network alone",
    "class_itself": r"not a network; got the class Plain; .*Return an instance, Plain\(\.\.\.\)",
    "instance": "not a factory; got Plain; .*Name a function that makes the network",
    "half": r"cannot take images.*Images are float32 and weights torch\.float16",
    "without_data": r"conv\.weight: a tensor without data, on torch's meta device",
    "with_phase": "phase: a tensor of this kind cannot be stored; got torch.complex64",
    "without_layers": "the logits do not depend on any weight that trains",
    "other_channels": r"cannot take images of 3 x 8 x 8; .*\(layer 0, Conv2d\)",
    "other_size": r"cannot take images of 3 x 8 x 8; .*\(layer 2, Linear\)",
}


def test_code_of_granet_is_not_the_users_although_a_user_named_it(tmp_path: Path) -> None:
    user_code.find("granet.errors:counted", what="network", attribute="factory", error=ModelError)
    test_what_cannot_train_is_refused_before_anything_is_written("other_size", tmp_path)


@pytest.mark.parametrize("network", REFUSED)
def test_what_cannot_train_is_refused_before_anything_is_written(network: str, tmp_path: Path) -> None:
    with pytest.raises((ModelError, UsageError, CheckpointError), match=REFUSED[network]):
        train(recipe(network), RunFolder(tmp_path / "run"), CPU, dataset=arrays_dataset())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", ["Length", "OneByOne", "graph", "inner_compiled", "in_evaluation_mode", "lazy"])
def test_other_unusual_networks_train(network: str, tmp_path: Path) -> None:
    run, data = RunFolder(tmp_path), arrays_dataset()
    trained = train(recipe(network), run, CPU, dataset=data)
    assert resume(run, CPU, dataset=data) == trained
    model = from_checkpoint(load(run.best), factory=f"{NETWORKS}:{network}")
    assert evaluate(model, [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))]).examples == 2


def test_the_named_dense_setting_lets_an_unused_layer_be(tmp_path: Path) -> None:
    train(recipe("Unused", **{"method.dense": '["idle"]'}), RunFolder(tmp_path), CPU, dataset=arrays_dataset())


def test_a_layer_skipped_in_the_step_of_an_update_is_named_with_the_dense_setting(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"SometimesUnused, step 4: the loss .* got skipped\. .*dense=\[\"skipped\"\]"):
        train(recipe("SometimesUnused"), RunFolder(tmp_path), CPU, dataset=arrays_dataset())


@pytest.mark.parametrize("network", ["Length", "IntegerLength"])
def test_a_graph_takes_any_number_of_images_although_the_network_asks_for_it(network: str) -> None:
    model = getattr(unusual_networks, network)().eval()
    graph = tracing.trace(model, (torch.zeros(2, 3, 8, 8),), where=network).model.graph
    assert str(graph.inputs[0].shape[0]) == tracing.BATCH


@pytest.mark.parametrize("network", ["OneByOne"])
def test_a_loop_over_images_is_named_when_a_graph_is_traced(network: str) -> None:
    model = getattr(unusual_networks, network)().eval()
    with pytest.raises(ModelError, match=r"fixes the number of images .* got 2, .*Replace a loop over images"):
        tracing.trace(model, (torch.zeros(2, 3, 8, 8),), where=network)


# Errors in a user's code


def test_an_error_in_forward_in_the_middle_of_training_is_the_networks(tmp_path: Path) -> None:
    message = r"Later: the network fails in training; got KeyError: 'key' \(tests/unusual_networks\.py, line \d+, in"
    with pytest.raises(ModelError, match=message):
        train(recipe("Later"), RunFolder(tmp_path), CPU, dataset=arrays_dataset())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "images", per_class=8)


@pytest.mark.parametrize("command", ["train", "plan"])
def test_no_command_calls_an_error_of_the_users_code_a_bug(
    command: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    where = ("--recipe", f"{tmp_path}/tiny.toml") if command == "train" else (f"{tmp_path}/tiny.toml",)
    out = ("--out", f"{tmp_path}/run") if command == "train" else ()
    assert granet([command, *where, "--model", f"{NETWORKS}:Modes", "--data", str(images), *out]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert re.search(r"code of yours failed: AttributeError: my own train\(\) in tests/unusual_networks\.py", message)
    assert "bug" not in message


def test_plan_refuses_what_train_refuses(images: Path) -> None:
    with pytest.raises(ModelError, match="in training mode"):
        plan(recipe("Auxiliary", **{"data.directory": str(images)}), CPU)
