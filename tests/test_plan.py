"""A run before it is made: FLOPs as published, counts as they come out, cautions, and the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from granet import Sparsifier, allocation, flops
from granet.analysis.plan_warnings import Caution, cautions
from granet.analysis.trajectory import Trajectory, predict_trajectory
from granet.errors import UsageError
from granet.methods import GMP, RigL, Static
from granet.methods.base import Method
from granet.models import outline
from granet.recipe import Recipe
from granet.training import RunFolder, train
from granet.training.placeholder_dataset import PlaceholderImages, placeholder_dataset
from granet.training.plan import plan
from tests.commandline import Granet
from tests.running import METHODS, TOTAL, Run, every_method, network
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")
SHAPE = (1, 6, 6)


# FLOPs


@dataclass(frozen=True)
class Network:
    """ResNet-50 at 224 pixels: the shapes of its weights and their FLOPs."""

    shapes: dict[str, tuple[int, ...]]
    costs: dict[str, float]


@pytest.fixture(scope="module")
def resnet50() -> Network:
    model = outline("torchvision:resnet50", in_channels=3, classes=1000, image_size=224)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if parameter.dim() > 1}
    return Network(shapes, flops.layers(model, (3, 224, 224)))


def counted(network: Network, densities: dict[str, float]) -> float:
    return sum(cost * densities.get(name, 1.0) for name, cost in network.costs.items())


def as_rigl_counts(network: Network, densities: dict[str, float]) -> float:
    """Our count and what the notebook of google-research/rigl counts besides.

    That is one operation of a ReLU for every output of a layer, and a first convolution over an image that is padded
    twice, to 230 pixels before it and by another 3 in it, so that it has 115 outputs a side.
    """
    outputs = {name: cost / 2 / prod(network.shapes[name][1:]) for name, cost in network.costs.items()}
    wider = 115**2 / 112**2 - 1
    first = densities.get("conv1.weight", 1.0) * network.costs["conv1.weight"] * wider
    return counted(network, densities) + first + sum(outputs.values()) + outputs["conv1.weight"] * wider


@pytest.mark.parametrize(
    ("distribution", "sparsity", "published"),
    [
        ("erk", 0.8, "0.42"),
        ("uniform", 0.8, "0.23"),
        ("erk", 0.9, "0.24"),
        ("uniform", 0.9, "0.13"),
        ("erk", 0.95, "0.12"),
        ("uniform", 0.95, "0.08"),
        ("erk", 0.965, "0.09"),
        ("uniform", 0.965, "0.07"),
    ],
)
def test_inference_flops_are_those_published_for_rigl(
    resnet50: Network, distribution: str, sparsity: float, published: str
) -> None:
    shapes = dict(resnet50.shapes)
    if distribution == "uniform":  # which keeps the first layer dense
        del shapes["conv1.weight"]
    budgets = allocation.ALLOCATIONS[distribution](shapes, 1 - sparsity)  # type: ignore[index]
    densities = {name: budgets[name] / prod(shape) for name, shape in shapes.items()}
    assert f"{as_rigl_counts(resnet50, densities) / as_rigl_counts(resnet50, {}):.2f}" == published
    plain = counted(resnet50, densities) / counted(resnet50, {})
    assert plain == pytest.approx(float(published), abs=0.01)


def test_dense_flops_are_those_published_for_rigl(resnet50: Network) -> None:
    assert f"{as_rigl_counts(resnet50, {}):.1e}" == "8.2e+09"
    images, epochs = 1_281_167, 102.4  # 32,000 steps of 4,096
    assert f"{flops.training_step(*[as_rigl_counts(resnet50, {})] * 2) * images * epochs:.1e}" == "3.2e+18"


# The trajectory of a method


def foreseen(method: Method, total: int = TOTAL, **settings: Any) -> Trajectory:
    model = settings.pop("model", None) or network()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}
    return predict_trajectory(
        method, weights, flops.layers(model, SHAPE), total_steps=total, batch_size=8, seed=0, **settings
    )


@every_method
def test_predicted_counts_are_those_of_a_run(method: Method) -> None:
    run, trajectory = Run(method), foreseen(method)
    assert trajectory.first.layers == {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}
    updates = run.steps(TOTAL)
    assert trajectory.updates == len(updates)
    assert {step for step, _ in trajectory.prunes} | set(trajectory.swaps) == {update.step for update in updates}
    active = {update.step: sum(counts["active"] for counts in update.counts.values()) for update in updates}
    assert all(active[step] == kept for step, kept in trajectory.prunes)
    if not trajectory.estimated:
        assert trajectory.last.layers == {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}
    assert run.sparsifier.exploration_rate <= trajectory.reach


def stepwise(method: Method) -> float:
    """FLOPs of training, counted step by step from the masks that really are."""
    run, model, costs = Run(method), network(), flops.layers(network(), SHAPE)
    dense = sum(costs.values())
    total = 0.0
    for step in range(1, TOTAL + 1):
        densities = {name: float(mask.float().mean()) for name, mask in run.sparsifier.masks.items()}
        always = method.momentum_decay is not None
        looks = always or method.needs_gradients(step, TOTAL)
        total += 8 * flops.training_step(flops.inference(model, SHAPE, densities), dense, dense_gradient=looks)
        run.step()
    return total


@pytest.mark.parametrize("name", ["rigl", "rigl-itop", "set", "static", "dense", "granet-uniform", "gmp-uniform"])
def test_training_flops_are_the_sum_over_steps(name: str) -> None:
    trajectory = foreseen(METHODS[name])
    assert trajectory.estimated == ""
    assert trajectory.training_flops == pytest.approx(stepwise(METHODS[name]), rel=1e-6)


@pytest.mark.parametrize("name", ["granet", "granet-sparse", "granet-momentum", "gmp", "snfs"])
def test_layers_that_training_decides_are_estimates(name: str) -> None:
    trajectory = foreseen(METHODS[name])
    assert trajectory.estimated
    assert trajectory.training_flops == pytest.approx(stepwise(METHODS[name]), rel=0.3)


def test_training_flops_follow_the_formula_of_rigl() -> None:
    interval, rounds = 10, 30
    trajectory = foreseen(RigL(density=0.2, interval=interval, stop=interval * rounds - 1), total=interval * rounds)
    sparse, dense = trajectory.active_flops, trajectory.dense_flops
    per_step = (3 * sparse * (interval - 1) + 2 * sparse + dense) / interval  # an update is one of the steps
    assert trajectory.training_flops / (8 * trajectory.total_steps) == pytest.approx(
        per_step - (dense - sparse) / trajectory.total_steps
    )


def test_of_many_prunes_some_are_stages() -> None:
    trajectory = foreseen(GMP(density=0.05, interval=1, end=180), total=200)
    assert len(trajectory.prunes) == 180
    assert len(trajectory.stages) == 13
    assert (trajectory.stages[1].step, trajectory.last.step) == (1, 180)
    assert [stage.active for stage in trajectory.stages] == sorted((s.active for s in trajectory.stages), reverse=True)


# Cautions


def found(method: Method, total: int = 400, **settings: Any) -> dict[str, Caution]:
    model = settings.pop("model", None) or network()
    trajectory = foreseen(method, total, model=model)
    told = cautions(trajectory, method, flops.layers(model, SHAPE), steps_per_epoch=20)
    return {caution.kind: caution for caution in told}


def test_a_sound_run_has_no_warnings() -> None:
    assert found(GMP(density=0.3, interval=10)) == {}
    assert found(RigL(density=0.3, interval=10)) == {}


def test_a_layer_with_fewer_weights_than_outputs_is_a_caution() -> None:
    (caution,) = found(Static(density=0.01, allocation="uniform")).values()
    assert caution.kind == "near-empty-layer"
    assert caution.layers == ("conv.weight", "fc1.weight", "fc2.weight")
    assert "fc1.weight has 4 active weights for 8 outputs" in caution.message


def test_a_dense_layer_with_most_of_the_flops_is_a_caution() -> None:
    model = network()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1 and name != "conv.weight"}
    costs, method = flops.layers(model, SHAPE), Static(density=0.1)
    trajectory = predict_trajectory(method, weights, costs, total_steps=10, batch_size=8, seed=0)
    told = {caution.kind: caution for caution in cautions(trajectory, method, costs, steps_per_epoch=5)}
    assert told["dense-layer"].layers == ("conv.weight",)
    share = costs["conv.weight"] / trajectory.active_flops
    assert f"takes {share:.0%} of the sparse network's FLOPs" in told["dense-layer"].message


def test_too_few_updates_are_a_caution() -> None:
    told = found(GMP(density=0.1, interval=100))
    assert "2 prunes, of which the largest takes 79%" in told["few-prunes"].message
    told = found(RigL(density=0.1, interval=140, drop_fraction=0.1))
    assert "2 times only" in told["few-swaps"].message
    assert "at most 10% of the weights" in told["little-exploration"].message


def test_a_density_reached_only_at_the_end_is_a_caution() -> None:
    told = found(GMP(density=0.3, interval=10, end=390))
    assert "0.5 epochs before the end" in told["late-density"].message


# The plan of a recipe

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    images = write_image_folder(tmp_path_factory.mktemp("images"), per_class=27)

    def recipe(**settings: Any) -> Recipe:
        return Recipe.from_dict(
            {
                "name": "tiny",
                "model": {"name": "resnet8"},
                "data": {"name": "image-folder", "directory": str(images)},
                "method": {"name": "granet", "density": 0.2, "interval": "2it", "end": "9it"},
                "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9},
                "schedule": {"name": "cosine"},
                "training": {"epochs": 3, "batch_size": 12},
            }
        ).override(settings)

    return recipe


def test_sizes_are_about_those_of_the_files(make: Make, tmp_path: Path) -> None:
    recipe = make(**{"training.keep_every": "6it"})
    planned = plan(recipe, CPU, steps=1)
    train(recipe, RunFolder(tmp_path), CPU)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert planned.checkpoints == len(files)
    assert planned.disk_bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.06)
    assert planned.last_bytes == pytest.approx((tmp_path / "last.safetensors").stat().st_size, rel=0.03)
    history = (tmp_path / "history.bin").stat().st_size
    assert 0.8 * history < planned.trajectory.history_bytes < 2 * history


def test_a_timing_measures_steps_and_memory(make: Make) -> None:
    planned = plan(make(), CPU, steps=2)
    trial = planned.trial
    assert trial is not None
    assert planned.seconds is not None
    assert (trial.steps, trial.real_images, trial.peak_memory) == (2, True, None)
    low, high = trial.spread_seconds
    assert 0 < low <= trial.step_seconds <= high
    assert trial.memory["weights"] == trial.memory["gradients"] == trial.memory["optimizer"]
    assert trial.memory["weights"] == 4 * planned.total_parameters
    assert trial.memory["activations"] > 12 * 16 * 8 * 8 * 4  # one map of the first layer, at least
    assert trial.memory["masks"] > 0
    steps, updates = planned.total_steps * trial.step_seconds, planned.trajectory.updates * trial.update_seconds
    assert planned.seconds == pytest.approx(steps + 3 * trial.evaluation_seconds + updates)


def test_without_a_timing_the_rest_of_the_plan_is_the_same(make: Make) -> None:
    tried, untried = plan(make(), CPU, steps=1), plan(make(), CPU, steps=0)
    assert (untried.trial, untried.seconds) == (None, None)
    assert untried.trajectory == tried.trajectory
    assert untried.layers == tried.layers
    assert untried.last_bytes == pytest.approx(tried.last_bytes, rel=0.01)


def test_placeholders_have_the_sizes_of_published_datasets() -> None:
    recipe = Recipe.load("cifar10-resnet50-granet")
    dataset = placeholder_dataset(recipe, PlaceholderImages())
    assert (len(dataset.train), len(dataset.validation), len(dataset.classes)) == (45_000, 5_000, 10)
    assert (dataset.image_size, dataset.channels) == (32, 3)
    folder = placeholder_dataset(Recipe.load("imagenet-resnet50-granet"), PlaceholderImages(count=1000, classes=7))
    assert (folder.image_size, len(folder.classes)) == (224, 7)


@pytest.mark.parametrize(
    ("recipe", "images", "message"),
    [
        ("imagenet-resnet50-granet", PlaceholderImages(), "--images: the size of dataset image-folder"),
        ("imagenet-resnet50-granet", PlaceholderImages(count=5), "--classes: the size of dataset image-folder"),
        ("cifar10-resnet50-granet", PlaceholderImages(count=0), "--images: must be at least 1"),
        ("cifar10-resnet50-granet", PlaceholderImages(count=1), "too few images"),
    ],
)
def test_unknown_sizes_are_asked_for(recipe: str, images: PlaceholderImages, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        placeholder_dataset(Recipe.load(recipe), images)


def test_layers_kept_dense_are_shown_without_a_mask(make: Make) -> None:
    planned = plan(make(**{"method.dense": '["conv1"]'}), CPU, steps=0)
    layer = planned.layers[0]
    assert (layer.name, layer.masked, layer.active[-1]) == ("conv1.weight", False, 432)
    assert sum(layer.flops_share for layer in planned.layers) == pytest.approx(1.0)


# The command


@pytest.fixture
def tiny(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(make().to_toml())
    return tmp_path


def test_the_command_shows_the_plan_and_writes_nothing(tiny: Path, granet: Granet) -> None:
    answer = granet("plan", "tiny.toml", "--steps", 1)
    assert answer.code == 0
    facts, layers = answer.out.split("\n\n")[:2]
    names = [line[:10].strip() for line in facts.splitlines()[1:]]
    assert names == ["images", "steps", "budget", "updates", "inference", "training", "files", "memory", "time", ""]
    assert "at first" in layers
    assert "~ layers are estimated" in layers
    assert "caution: density is" not in answer.out
    assert sorted(path.name for path in tiny.iterdir()) == ["tiny.toml"]


def test_json_equals_the_plan(tiny: Path, granet: Granet) -> None:
    found = granet("plan", "tiny.toml", "--method", "rigl", "--density", "0.1", "--steps", 0, "--json").json()
    assert found["recipe"]["method"]["name"] == "rigl"
    assert (found["total_steps"], found["steps_per_epoch"]) == (18, 6)
    assert found["active"] == round(0.1 * found["parameters"])
    assert found["trial"] is found["seconds"] is found["estimated"] is None
    assert found["flops"]["active"] < found["flops"]["dense"]
    assert {caution["kind"] for caution in found["cautions"]} <= {"few-swaps", "near-empty-layer", "little-exploration"}
    assert found["layers"][0]["shape"] == [16, 3, 3, 3]


def test_a_published_dataset_is_planned_without_its_files(tiny: Path, granet: Granet) -> None:
    answer = granet("plan", "tiny.toml", "--set", "data.name=cifar10", "--set", "data.directory=", "--steps", 1)
    assert answer.code == 0
    assert "45,000 to train on; the dataset is not opened" in answer.out
    assert "with noise instead of images" in answer.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "unknown recipe"),
        (["tiny.toml", "--set", "method.end=9ep"], "prune window ends past the end"),
        (["tiny.toml", "--classes", "3"], "this needs --images as well"),
        (["tiny.toml", "--steps", "-1"], "--steps"),
        (["imagenet-resnet50-granet"], "say it, or where the dataset lies with --data"),
    ],
)
def test_plans_that_are_impossible_are_refused(tiny: Path, granet: Granet, arguments: list[str], message: str) -> None:
    answer = granet("plan", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message.lower() in answer.err.lower()


def test_a_rewind_has_a_plan_of_its_own(make: Make) -> None:
    section = {"mode": "lr", "parent": "a", "parent_hash": "0" * 64, "start": 0, "steps": 5, "densities": [0.1]}
    static, _ = make().with_method("static", density=0.1)
    recipe = Recipe.from_dict(
        static.model_dump(mode="json", exclude_none=True, exclude_unset=True) | {"rewind": section}
    )
    with pytest.raises(UsageError, match="granet rewind --dry-run"):
        plan(recipe, CPU)


def test_the_layers_of_a_plan_are_those_that_a_sparsifier_masks() -> None:
    """What the trajectory calls maskable is what is masked."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, Static(density=0.3), total_steps=5)
    assert list(foreseen(Static(density=0.3)).shapes) == list(sparsifier.masks)
