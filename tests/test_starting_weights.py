"""Runs that start from the weights in a file: what goes in, what is said about it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from granet.checkpoint import Checkpoint, load
from granet.errors import CheckpointError, FileError, Interrupted, ModelError, RecipeError
from granet.models import build
from granet.recipe import Recipe
from granet.training import RunFolder, resume, train
from granet_cli.app import run
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), per_class=9)


def network(model: str = "resnet8", *, channels: int = 3, classes: int = 3, seed: int = 7) -> nn.Module:
    found = build(model, in_channels=channels, classes=classes, image_size=8, seed=seed)
    found(torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(seed)))  # moves the statistics
    return found


def saved(path: Path, state: State) -> Path:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def recipe(images: Path) -> Callable[..., Recipe]:
    def make(weights: Path | None = None, **settings: object) -> Recipe:
        given: dict[str, object] = {} if weights is None else {"model.weights": str(weights)}
        return Recipe.from_toml(
            f"""
            name = "tiny"
            model = {{name = "resnet8"}}
            data = {{name = "image-folder", directory = "{images}", validation = 0.2}}
            method = {{name = "granet", density = 0.3, interval = "1it", end = "1ep"}}
            optimizer = {{name = "sgd", learning_rate = 0.01, momentum = 0.9}}
            schedule = {{name = "constant"}}
            training = {{epochs = 2, batch_size = 7}}
            """
        ).override(given | {key.replace("__", "."): value for key, value in settings.items()})

    return make


def beginning(recipe: Recipe, folder: Path) -> Checkpoint:
    """The state before the first step."""
    with pytest.raises(Interrupted):
        train(recipe, RunFolder(folder), CPU, stop=lambda: True)
    return load(folder / "last.safetensors")


def assert_holds(checkpoint: Checkpoint, state: State, besides: tuple[str, ...] = ()) -> None:
    mine = {**checkpoint.weights, **checkpoint.buffers}
    assert mine.keys() == state.keys()
    for name in mine.keys() - set(besides):
        assert torch.equal(mine[name], state[name]), name


def plain(state: State) -> Any:
    return state


def parallel(state: State) -> Any:
    return {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


@pytest.mark.parametrize("form", ["safetensors", "torch", "parallel"])
def test_a_run_starts_from_the_weights_of_other_programs(tmp_path, recipe, form):
    state = network().state_dict()
    if form == "safetensors":
        saved(tmp_path / "start", state)
    else:
        torch.save(state if form == "torch" else parallel(state), tmp_path / "start")
    checkpoint = beginning(recipe(tmp_path / "start"), tmp_path / "run")
    assert_holds(checkpoint, state)
    begun = checkpoint.metrics["start"]
    assert (begun["file"], begun["hash"], begun["initialised"]) == ("start", checkpoint.recipe.model.weights_hash, [])
    assert len(begun["hash"]) == 64


def test_a_run_starts_from_a_granet_checkpoint_with_masks_of_its_own(tmp_path, recipe):
    train(recipe(), RunFolder(tmp_path / "first"), CPU)
    first = load(tmp_path / "first/last.safetensors")
    checkpoint = beginning(recipe(tmp_path / "first/last.safetensors", seed=3), tmp_path / "second")
    assert_holds(checkpoint, {**first.weights, **first.buffers})
    assert all(mask.all() for mask in checkpoint.masks.values())  # dense to sparse
    assert checkpoint.metrics["start"]["remarks"] == ["took the weights of a granet checkpoint, not its masks"]


def test_a_sparse_start_cuts_the_weights_to_its_own_random_mask(tmp_path, recipe):
    state = network().state_dict()
    sparse = {"method.initial_density": 0.5, "method.allocation": "erk"}
    checkpoint = beginning(recipe(saved(tmp_path / "w", state)).override(sparse), tmp_path / "run")
    other = beginning(recipe().override(sparse), tmp_path / "other")
    for name, mask in checkpoint.masks.items():
        assert torch.equal(mask, other.masks[name])
        assert torch.equal(checkpoint.weights[name], state[name] * mask)


def test_weights_that_torch_pruned_are_zero_outside_of_their_masks(tmp_path, recipe):
    state = network().state_dict()
    mask = torch.rand_like(state["conv1.weight"]).gt(0.5)
    pruned = {name: tensor for name, tensor in state.items() if name != "conv1.weight"}
    pruned |= {"conv1.weight_orig": state["conv1.weight"], "conv1.weight_mask": mask.float()}
    checkpoint = beginning(recipe(saved(tmp_path / "w", pruned)), tmp_path / "run")
    assert_holds(checkpoint, {**state, "conv1.weight": state["conv1.weight"] * mask})


def test_a_classifier_of_other_classes_stays_as_initialised(tmp_path, recipe, capfd):
    state, fresh = network(classes=10).state_dict(), network(seed=0).state_dict()
    settings = recipe(saved(tmp_path / "w.safetensors", state))
    classifier = ("fc.weight", "fc.bias")
    checkpoint = beginning(settings, tmp_path / "run")
    assert_holds(checkpoint, state, besides=classifier)
    assert all(torch.equal(checkpoint.weights[name], fresh[name]) for name in classifier)
    assert checkpoint.metrics["start"]["initialised"] == list(classifier)
    (tmp_path / "recipe.toml").write_text(settings.to_toml())
    assert run(["train", "--recipe", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "told")]) == 0
    said = capfd.readouterr().out
    assert "starting from the weights in w.safetensors" in said
    assert "left as initialised, being of another number of classes: fc.weight, fc.bias" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {**s, "fc.weight": torch.zeros(10, 99), "fc.bias": torch.zeros(3)}, "fc.weight: shape [10, 99]"),
        (lambda s: {**s, "fc.weight": torch.zeros(10, 64)}, "fc.weight: shape [10, 64], expected [3, 64]"),
        (lambda s: {k: v for k, v in s.items() if k != "fc.weight"}, "missing: fc.weight [3, 64]"),
        (lambda s: {**s, "extra": torch.zeros(2)}, "unexpected: extra [2]"),
        (lambda s: {**s, "bn1.weight": torch.full((16,), torch.nan)}, "bn1.weight: 16 of 16 values are not finite"),
        (lambda s: network(channels=1).state_dict(), "conv1.weight: shape [16, 1, 3, 3], expected [16, 3, 3, 3]"),
        (lambda s: network("resnet20").state_dict(), "and 60 more of these"),
    ],
)
def test_weights_that_do_not_fit_are_reported_by_name(tmp_path, recipe, change, said):
    path = saved(tmp_path / "w", change(network().state_dict()))
    with pytest.raises(ModelError) as caught:
        train(recipe(path), RunFolder(tmp_path / "run"), CPU)
    assert str(caught.value).startswith(f"{path}: the file does not fit resnet8")
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_exactly_when_the_file_is_gone(tmp_path, recipe):
    path = saved(tmp_path / "w", network(classes=10).state_dict())
    train(recipe(path), RunFolder(tmp_path / "whole"), CPU)
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        train(recipe(path), RunFolder(tmp_path / "stopped"), CPU, stop=lambda: next(asked) >= 2)
    path.unlink()
    resume(RunFolder(tmp_path / "stopped"), CPU)
    for name in ("last.safetensors", "best.safetensors", "recipe.toml", "history.bin"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_a_run_that_died_before_its_first_state_begins_again_with_the_same_file_only(tmp_path, recipe):
    path, folder = saved(tmp_path / "w", network().state_dict()), tmp_path / "run"
    expected = beginning(recipe(path), folder)
    (folder / "last.safetensors").unlink()
    with pytest.raises(Interrupted):
        resume(RunFolder(folder), CPU, stop=lambda: True)
    assert_holds(load(folder / "last.safetensors"), {**expected.weights, **expected.buffers})
    (folder / "last.safetensors").unlink()
    saved(path, network(seed=8).state_dict())
    with pytest.raises(CheckpointError, match="no longer those that it was begun with; got SHA-256"):
        resume(RunFolder(folder), CPU)


def test_a_rewound_run_starts_from_its_parent_alone(tmp_path, recipe):
    path = saved(tmp_path / "w", network().state_dict())
    train(recipe(path), RunFolder(tmp_path / "run"), CPU)
    path.unlink()
    last = str(tmp_path / "run/last.safetensors")
    assert run(["rewind", last, "--mode", "lr", "--density", "0.2", "--out", str(tmp_path / "again"), "--json"]) == 0


def test_unreadable_files_are_reported(tmp_path, recipe):
    (tmp_path / "text").write_text("no weights")
    for name, said in (("none", "cannot be read"), ("text", "neither a safetensors file nor one of torch.save")):
        with pytest.raises(FileError, match=said):
            train(recipe(tmp_path / name), RunFolder(tmp_path / "run"), CPU)
    with pytest.raises(RecipeError, match=r"model\.weights_hash: there are no weights for this hash"):
        recipe(model__weights_hash="0" * 64)


def test_the_command_line_names_the_file(tmp_path, recipe, images, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "w.safetensors", network().state_dict())
    saved(tmp_path / "v.safetensors", network(seed=8).state_dict())
    Path("tiny.toml").write_text(recipe(tmp_path / "v.safetensors", model__weights_hash="0" * 64).to_toml())
    assert run(["train", "--recipe", "tiny.toml", "--weights", "w.safetensors", "--out", "run"]) == 0
    checkpoint = load("run/last.safetensors")
    assert checkpoint.recipe.model.weights == str(tmp_path / "w.safetensors")
    assert checkpoint.metrics["start"]["file"] == "w.safetensors"
    capfd.readouterr()
    assert run(["train", "--resume", "run", "--weights", "w.safetensors"]) == 0
    assert run(["train", "--resume", "run", "--weights", "v.safetensors"]) == 2
    assert "model.weights: asked for" in capfd.readouterr().err
    assert run(["train", "--recipe", "tiny.toml", "--weights", "", "--out", "other"]) == 2
    assert run(["train", "--recipe", "tiny.toml", "--weights", "none.pt", "--out", "other"]) == 1
    assert "none.pt: the file cannot be read" in capfd.readouterr().err
