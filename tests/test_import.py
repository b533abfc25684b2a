"""Weights and masks of other programs: what is understood, what is said about it, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from exporters.dense import write_dense
from granet import Sparsifier, models
from granet.analysis.inspection import inspect
from granet.checkpoint import Checkpoint, load, save, verify
from granet.errors import CheckpointError, DataError, FileError, GranetError, ModelError, UnknownNameError, UsageError
from granet.importing import import_weights
from granet.recipe import build_method
from granet_cli.app import run
from tests.shards import examples, write_shards
from tests.synthetic import write_image_folder

SIZES: dict[str, Any] = {"model": "resnet8", "image_size": 8}
LENET: dict[str, Any] = {"model": "lenet-300-100", "image_size": 4, "mean": [0.5], "std": [0.5]}

State = dict[str, Tensor]


def network() -> nn.Module:
    """A network whose statistics are not those of the beginning."""
    model = models.build("resnet8", in_channels=3, classes=4, image_size=8, seed=5)
    model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5)))
    return model


def lenet() -> State:
    model = models.build("lenet-300-100", in_channels=1, classes=3, image_size=4, seed=5)
    return dict(model.state_dict())


def written(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def sparse(state: State, share: float = 0.2) -> State:
    """Only that share of the weights, and zeros."""
    return {
        name: weight * (torch.rand_like(weight) < share) if weight.ndim > 1 else weight
        for name, weight in state.items()
    }


def renamed(state: State, change: Callable[[str], str]) -> State:
    return {change(name): tensor for name, tensor in state.items()}


def note(checkpoint: Checkpoint) -> Any:
    return checkpoint.metrics["imported"]


def assert_holds(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
    stored = checkpoint.weights | checkpoint.buffers
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())
    assert all(stored[name].dtype == tensor.dtype for name, tensor in state.items())


# Files


def _first_stage_compiled(name: str) -> str:
    return name.replace("layer1.", "layer1._orig_mod.")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        OrderedDict,
        lambda state: {"epoch": 3, "state_dict": state, "best_acc1": torch.tensor(76.1), "optimizer": {"state": {}}},
        lambda state: {"model_state_dict": state},
        lambda state: {"model": state, "args": {"lr": 0.1}},
        lambda state: {"state_dict": {"model": state}},
        lambda state: renamed(state, "module.{}".format),
        lambda state: renamed(state, "_orig_mod.{}".format),
        lambda state: renamed(state, "module._orig_mod.{}".format),
        lambda state: {"state_dict": renamed(state, "model.module.{}".format)},
        lambda state: renamed(state, _first_stage_compiled),
        lambda state: {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()},
    ],
)
def test_state_dicts_are_found_inside_what_programs_save(tmp_path: Path, wrap: Callable[[State], object]) -> None:
    state = dict(network().state_dict())
    assert_holds(import_weights(written(tmp_path / "a.pth", wrap(state)), **SIZES), state)


def test_files_from_before_zip_archives_are_read(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({"state_dict": state}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=False)
    assert_holds(import_weights(tmp_path / "a.pth.tar", **SIZES), state)


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = network().state_dict()
    safetensors.torch.save_file(dict(state), tmp_path / "a.safetensors")
    checkpoint = import_weights(tmp_path / "a.safetensors", **SIZES)
    assert_holds(checkpoint, state)
    assert list(checkpoint.weights) == [name for name, _ in network().named_parameters()]
    assert note(checkpoint)["format"] == "safetensors"


def test_a_dense_export_comes_back(tmp_path: Path) -> None:
    pruned = {"state_dict": sparse(dict(network().state_dict()))}
    first = import_weights(written(tmp_path / "a.pth", pruned), **SIZES, infer_masks=True)
    write_dense(first, tmp_path / "dense.safetensors")
    second = import_weights(tmp_path / "dense.safetensors", **SIZES, infer_masks=True)
    assert_holds(second, first.weights | first.buffers)
    assert all(torch.equal(second.masks[name], mask) for name, mask in first.masks.items())


def test_remarks_name_what_was_left_out_or_renamed(tmp_path: Path) -> None:
    state = renamed(dict(network().state_dict()), "module.{}".format)
    checkpoint = import_weights(
        written(tmp_path / "a.pth", {"state_dict": {**state, "version": 3}, "optimizer": {}, "epoch": 9}), **SIZES
    )
    remarks = "\n".join(note(checkpoint)["remarks"])
    assert "took 'state_dict', left out optimizer, epoch" in remarks
    assert "left out what is no tensor: version" in remarks
    assert "took 'module' out of the names" in remarks
    assert note(checkpoint)["file"] == "a.pth"


# The checkpoint


def test_an_imported_checkpoint_works_like_any_other(tmp_path: Path) -> None:
    original = import_weights(written(tmp_path / "a.pth", network().state_dict()), **SIZES)
    save(tmp_path / "a.safetensors", original)
    stored = load(tmp_path / "a.safetensors")
    assert_holds(stored, network().state_dict())
    assert (stored.step, stored.optimizer, stored.progress) == (0, {}, {})
    assert stored.metrics == original.metrics
    assert stored.recipe == original.recipe
    assert verify(tmp_path / "a.safetensors").ok
    report = inspect(stored)
    assert (report.recipe, report.method, report.model) == ("imported", "dense", "resnet8")
    assert report.flops is not None
    images = torch.randn(2, 3, 8, 8)
    again = models.from_checkpoint(stored).eval()
    assert torch.equal(again(images), network().eval()(images))


def test_training_continues_with_the_imported_masks(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", sparse(dict(network().state_dict())))
    checkpoint = import_weights(path, **SIZES, infer_masks=True)
    model = models.from_checkpoint(checkpoint)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    method = build_method(checkpoint.recipe, 10)
    sparsifier = Sparsifier(model, optimizer, method, total_steps=10)
    state = {"step": 0, "masks": checkpoint.masks, "explored": checkpoint.explored, "momenta": {}}
    sparsifier.load_state_dict(state)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    sparsifier.step()
    assert sparsifier.density == checkpoint.recipe.method.density
    assert all(not model.get_parameter(n).detach()[~mask].any() for n, mask in checkpoint.masks.items())


# Sizes and images


def test_channels_and_classes_are_counted_in_the_weights(tmp_path: Path) -> None:
    made = import_weights(written(tmp_path / "a.pth", network().state_dict()), **SIZES).network
    assert (made.in_channels, made.classes) == (3, ("0", "1", "2", "3"))
    flat = import_weights(written(tmp_path / "b.pth", lenet()), **LENET).network
    assert (flat.in_channels, len(flat.classes)) == (1, 3)


def test_a_dataset_says_what_the_images_are_like(tmp_path: Path) -> None:
    model = models.build("resnet8", in_channels=3, classes=10, image_size=32)
    checkpoint = import_weights(written(tmp_path / "a.pth", model.state_dict()), model="resnet8", data="cifar10")
    assert checkpoint.recipe.data.name == "cifar10"
    assert checkpoint.network.classes[:2] == ("airplane", "automobile")
    assert (checkpoint.network.image_size, checkpoint.network.mean) == (32, (0.4914, 0.4822, 0.4465))


def test_an_image_folder_gives_classes_and_image_size(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", classes=4)
    path = written(tmp_path / "a.pth", network().state_dict())
    checkpoint = import_weights(path, model="resnet8", directory=folder)
    assert checkpoint.network.classes == ("class-0", "class-1", "class-2", "class-3")
    assert checkpoint.network.image_size == 8
    assert (checkpoint.recipe.data.name, checkpoint.recipe.data.directory) == ("image-folder", str(folder))


def test_tar_shards_give_classes_and_image_size(tmp_path: Path) -> None:
    labels = examples(["a", "b", "c", "d"] * 3)
    folder = write_shards(tmp_path / "shards", train_0=labels, test_0=labels)
    path = written(tmp_path / "a.pth", network().state_dict())
    checkpoint = import_weights(path, model="resnet8", data="tar-shards", directory=folder)
    assert (checkpoint.network.classes, checkpoint.network.image_size) == (("a", "b", "c", "d"), 8)
    assert (checkpoint.recipe.data.name, checkpoint.recipe.data.directory) == ("tar-shards", str(folder))
    without_files = import_weights(path, **SIZES, data="tar-shards")
    assert without_files.recipe.data.name == "tar-shards"


def test_classes_can_be_named_and_images_normalised(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", network().state_dict())
    made = import_weights(path, **SIZES, classes=["a", "b", "c", "d"], mean=[0.1, 0.2, 0.3], std=[1, 2, 3]).network
    assert (made.classes, made.mean, made.std) == (("a", "b", "c", "d"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assumed = import_weights(path, **SIZES)
    assert assumed.network.mean == (0.485, 0.456, 0.406)
    assert any("ImageNet" in remark for remark in note(assumed)["remarks"])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"image_size": None}, UsageError, "add --image-size|Add --image-size"),
        ({"model": "resnet9"}, UnknownNameError, "did you mean|Did you mean"),
        ({"classes": 5}, ModelError, r"fc.weight: shape \[4, 64\], expected \[5, 64\]"),
        ({"classes": ["a", "b", "b", "d"]}, UsageError, "class names must differ"),
        ({"classes": 0}, UsageError, "--classes: out of range"),
        ({"in_channels": 1}, ModelError, "conv1.weight: shape"),
        ({"in_channels": 0}, UsageError, "at least 1"),
        ({"data": "cifra10"}, UnknownNameError, "Did you mean 'cifar10'"),
        ({"data": "mnist"}, UsageError, "--image-size: not what dataset mnist has; got 8; expected 28"),
        ({"data": "cifar10", "image_size": 32, "classes": 4}, UsageError, "got 4: 0, 1, 2, 3; expected 10: airplane"),
        ({"directory": Path("nowhere")}, DataError, "no such folder"),
        ({"mean": [0.5]}, UsageError, "is not known"),
        ({"mean": [0.5], "std": [0.5]}, UsageError, "expected 3 each"),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, UsageError, "above 0"),
        ({"mean": [float("inf")] * 3, "std": [0.5] * 3}, UsageError, "one finite number"),
        ({"classes": "abcd"}, ModelError, r"expected \[1, 64\]"),
    ],
)
def test_unknown_and_contradictory_arguments_are_errors(
    tmp_path: Path, options: dict[str, Any], kind: type[GranetError], message: str
) -> None:
    path = written(tmp_path / "a.pth", network().state_dict())
    with pytest.raises(kind, match=message):
        import_weights(path, **{**SIZES, **options})


def test_grey_images_need_their_normalisation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="how images are normalised is not known"):
        import_weights(written(tmp_path / "a.pth", lenet()), **{**LENET, "mean": None, "std": None})


FACTORIES = """
from torch import nn

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.second = nn.Flatten(), nn.Linear(48, 48), nn.Linear(48, 48)
        self.last = nn.Linear(48, 4)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.last(self.second(self.first(self.flatten(images))))
"""

OWN: dict[str, Any] = {"image_size": 4, "in_channels": 3, "classes": 4}


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_imported.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("factories")
def test_a_factory_of_fixed_size_needs_the_sizes_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).state_dict())
    with pytest.raises(UsageError, match=r"cannot be told from the weights\. Add --in-channels"):
        import_weights(path, model="own_imported:fixed", image_size=4)
    checkpoint = import_weights(path, model="own_imported:fixed", **OWN)
    assert checkpoint.network.name == "own_imported:fixed"


@pytest.mark.usefixtures("factories")
def test_a_tied_tensor_may_come_under_any_of_its_names(tmp_path: Path) -> None:
    from own_imported import Tied

    state = dict(Tied().state_dict())
    whole = import_weights(written(tmp_path / "a.pth", state), model="own_imported:Tied", **OWN)
    assert "second.weight" not in whole.weights
    renamed_only = {name: tensor for name, tensor in state.items() if name != "first.weight"}
    part = import_weights(written(tmp_path / "b.pth", renamed_only), model="own_imported:Tied", **OWN)
    assert_holds(part, whole.weights)
    state["second.weight"] = state["second.weight"] + 1
    with pytest.raises(ModelError, match=r"the same tensor as first\.weight, the file another one"):
        import_weights(written(tmp_path / "c.pth", state), model="own_imported:Tied", **OWN)


# Masks


def test_without_masks_everything_is_active_and_zeros_are_pointed_out(tmp_path: Path) -> None:
    checkpoint = import_weights(written(tmp_path / "a.pth", sparse(dict(network().state_dict()))), **SIZES)
    assert all(mask.all() for mask in checkpoint.masks.values())
    assert checkpoint.recipe.method.name == "dense"
    assert note(checkpoint)["masks"] == "none"
    assert any("are zero and count as active" in remark for remark in note(checkpoint)["remarks"])
    full = import_weights(written(tmp_path / "b.pth", network().state_dict()), **SIZES)
    assert not any("zero" in remark for remark in note(full)["remarks"])


def test_masks_are_inferred_only_when_asked_for_and_recorded_so(tmp_path: Path) -> None:
    state = sparse(dict(network().state_dict()))
    checkpoint = import_weights(written(tmp_path / "a.pth", {"state_dict": state}), **SIZES, infer_masks=True)
    for name, mask in checkpoint.masks.items():
        assert torch.equal(mask, state[name] != 0)
        assert torch.equal(checkpoint.explored[name], mask)
    active = sum(int(mask.sum()) for mask in checkpoint.masks.values())
    size = sum(mask.numel() for mask in checkpoint.masks.values())
    assert (checkpoint.recipe.method.name, checkpoint.recipe.method.density) == ("static", active / size)
    assert note(checkpoint)["masks"] == "inferred"
    assert inspect(checkpoint).imported == "a.pth; masks: inferred from zeros"


def _pruned() -> nn.Module:
    model = network()
    for name in ("conv1", "layer1.0.conv2"):
        prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.75)
    with torch.no_grad():
        conv1 = model.get_submodule("conv1")
        conv1.weight_orig[conv1.weight_mask.nonzero()[0].tolist()] = 0  # active and zero
    model.eval()(torch.zeros(1, 3, 8, 8))
    return model


def test_pruned_parameters_are_orig_times_mask_and_the_mask_stays_data(tmp_path: Path) -> None:
    model = _pruned()
    path = written(tmp_path / "a.pth", {"state_dict": renamed(dict(model.state_dict()), "module.{}".format)})
    checkpoint = import_weights(path, **SIZES)
    conv1 = model.get_submodule("conv1")
    assert torch.equal(checkpoint.masks["conv1.weight"], conv1.weight_mask.bool())
    assert torch.equal(checkpoint.weights["conv1.weight"], conv1.weight_orig * conv1.weight_mask)
    assert checkpoint.masks["conv1.weight"].sum() > checkpoint.weights["conv1.weight"].count_nonzero()
    assert checkpoint.masks["fc.weight"].all()
    assert note(checkpoint)["masks"] == "given"
    assert any("all active, as there is no mask for them: " in remark for remark in note(checkpoint)["remarks"])
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(models.from_checkpoint(checkpoint).eval()(images), model.eval()(images), atol=1e-6)


def test_a_mask_of_what_is_not_masked_is_applied_and_not_kept(tmp_path: Path) -> None:
    model = network()
    prune.random_unstructured(model.get_submodule("fc"), "bias", amount=2)
    checkpoint = import_weights(written(tmp_path / "a.pth", model.state_dict()), **SIZES)
    assert "fc.bias" not in checkpoint.masks
    assert checkpoint.weights["fc.bias"].count_nonzero() == 2
    remark = next(remark for remark in note(checkpoint)["remarks"] if "fc.bias" in remark)
    assert "set to zero once and not masked in training" in remark


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("fc1.weight", lambda masks: masks),
        ("fc1", lambda masks: masks),
        ("fc1.weight_mask", lambda masks: masks),
        ("fc1.mask", lambda masks: masks),
        ("module.fc1.weight", lambda masks: masks),
        ("module.fc1_mask", lambda masks: {"masks": masks, "step": 3}),
        ("fc1.weight_mask", lambda masks: {**masks, "fc1.weight": torch.randn(300, 16)}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_mask_file_goes_by_many_names(
    tmp_path: Path, name: str, wrap: Callable[[State], object], dtype: torch.dtype
) -> None:
    mask = torch.rand(300, 16) < 0.3
    masks = written(tmp_path / "masks.pt", wrap({name: mask.to(dtype)}))
    checkpoint = import_weights(written(tmp_path / "a.pth", lenet()), **LENET, mask_file=masks)
    assert torch.equal(checkpoint.masks["fc1.weight"], mask)
    assert torch.equal(checkpoint.weights["fc1.weight"], lenet()["fc1.weight"] * mask)
    assert (note(checkpoint)["masks"], note(checkpoint)["source"]) == ("given", "read from masks.pt")
    remarks = "\n".join(note(checkpoint)["remarks"])
    assert f"outside of their masks: {int((~mask).sum()):,} weights" in remarks
    assert "no mask for them: fc2.weight, fc3.weight" in remarks


def test_a_mask_file_can_be_safetensors(tmp_path: Path) -> None:
    mask = torch.rand(300, 16) < 0.3
    safetensors.torch.save_file({"fc1.weight": mask}, tmp_path / "masks.safetensors")
    weights = written(tmp_path / "a.pth", lenet())
    checkpoint = import_weights(weights, **LENET, mask_file=tmp_path / "masks.safetensors")
    assert torch.equal(checkpoint.masks["fc1.weight"], mask)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"fc4.weight": torch.ones(3)}, "does not have. Is it meant for fc"),
        ({"fc1": torch.ones(300, 16), "fc1.weight": torch.ones(300, 16)}, "two masks for one weight"),
        ({"fc1": torch.ones(16, 300)}, r"another shape than its weight; got \(16, 300\)"),
        ({"fc1": torch.full((300, 16), 2)}, "4800 of 4800 values that are neither 0 nor 1"),
        ({"fc1": torch.full((300, 16), torch.nan)}, "neither 0 nor 1"),
        ({f"fc{n + 1}": torch.zeros(s) for n, s in enumerate([(300, 16), (100, 300), (3, 100)])}, "no weight active"),
        ({"fc1.running_mean": torch.ones(3)}, "a mask for a weight that the network does not have"),
        ({"epoch": 3}, "no tensors"),
    ],
)
def test_masks_that_do_not_belong_are_refused(tmp_path: Path, masks: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "masks.pt", masks)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_weights(written(tmp_path / "a.pth", lenet()), **LENET, mask_file=path)
    assert str(path) in str(caught.value)


def test_a_mask_of_a_buffer_is_refused(tmp_path: Path) -> None:
    masks = written(tmp_path / "masks.pt", {"bn1.running_mean": torch.ones(16)})
    with pytest.raises(CheckpointError, match="a mask for a weight that the network does not have"):
        import_weights(written(tmp_path / "a.pth", network().state_dict()), **SIZES, mask_file=masks)


def test_masks_from_two_sources_are_refused(tmp_path: Path) -> None:
    pruned = written(tmp_path / "a.pth", _pruned().state_dict())
    masks = written(tmp_path / "masks.pt", {"conv1": torch.ones(16, 3, 3, 3)})
    with pytest.raises(UsageError, match="masks of its own"):
        import_weights(pruned, **SIZES, mask_file=masks)
    with pytest.raises(UsageError, match="none are inferred"):
        import_weights(pruned, **SIZES, infer_masks=True)
    with pytest.raises(UsageError, match="none are inferred"):
        import_weights(written(tmp_path / "b.pth", network().state_dict()), **SIZES, infer_masks=True, mask_file=masks)


# What does not fit


def _edit(**changes: Tensor | None) -> Callable[[State], State]:
    """A change of the state dict; dots in names are written as double underscores, None removes."""

    def edit(state: State) -> State:
        named = {name.replace("__", "."): tensor for name, tensor in changes.items()}
        return {name: tensor for name, tensor in {**state, **named}.items() if tensor is not None}

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_edit(fc1__bias=None), r"missing: fc1.bias \[300\]"),
        (_edit(fc9__bias=torch.zeros(7)), r"unexpected: fc9.bias \[7\]"),
        (_edit(fc1__bias=None, fc1__bais=torch.zeros(300)), r"missing: fc1.bias \[300\] \(nearest: fc1.bais\)"),
        (_edit(fc1__bias=None, fc1__bais=torch.zeros(300)), r"unexpected: fc1.bais \[300\] \(nearest: fc1.bias\)"),
        (_edit(fc1__bias=torch.zeros(301)), r"fc1.bias: shape \[301\], expected \[300\]"),
        (_edit(fc1__bias=torch.zeros(300, dtype=torch.int64)), "fc1.bias: torch.int64, expected torch.float32"),
        (_edit(fc1__bias=torch.full((300,), 0.1, dtype=torch.float64)), "cannot become torch.float32 without"),
        (_edit(fc1__bias=torch.tensor([torch.nan, torch.inf] * 150)), "300 of 300 values are not finite"),
    ],
)
def test_each_difference_is_named(tmp_path: Path, edit: Callable[[State], State], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        import_weights(written(tmp_path / "a.pth", edit(lenet())), **LENET)
    assert str(tmp_path / "a.pth") in str(caught.value)


def test_all_differences_are_named_at_once_and_a_great_many_in_part(tmp_path: Path) -> None:
    edit = _edit(fc1__bias=None, fc2__bias=torch.zeros(7), fc3__bias=torch.tensor([torch.nan] * 3), x=torch.zeros(()))
    with pytest.raises(ModelError) as caught:
        import_weights(written(tmp_path / "a.pth", edit(lenet())), **LENET)
    assert "Differences: 4\n" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 5
    with pytest.raises(ModelError, match="and 95 more of these") as caught:
        import_weights(written(tmp_path / "b.pth", lenet()), model="resnet20", image_size=8, in_channels=1, classes=3)
    assert len(str(caught.value).splitlines()) < 30


def test_a_dtype_changes_where_no_value_does(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in lenet().items()}
    checkpoint = import_weights(written(tmp_path / "a.pth", state), **LENET)
    assert_holds(checkpoint, {name: tensor.float() for name, tensor in state.items()})
    assert "converted without changing a value: float16 to float32" in note(checkpoint)["remarks"]
    wide = {name: tensor.double() for name, tensor in lenet().items()}
    assert_holds(import_weights(written(tmp_path / "b.pth", wide), **LENET), lenet())


def test_counters_that_old_files_lack_are_zero(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in network().state_dict().items() if not name.endswith("batches_tracked")}
    checkpoint = import_weights(written(tmp_path / "a.pth", state), **SIZES)
    assert checkpoint.buffers["bn1.num_batches_tracked"] == 0
    assert any(remark.startswith("set to 0, not being in the file") for remark in note(checkpoint)["remarks"])


def test_another_size_of_images_is_tried_out(tmp_path: Path) -> None:
    model = models.build("vgg19", in_channels=3, classes=2, image_size=16)
    with pytest.raises(ModelError, match="cannot take images of 3 x 8 x 8"):
        import_weights(written(tmp_path / "a.pth", model.state_dict()), model="vgg19", image_size=8)


# Networks built alike and named differently


def _foreign(name: str) -> str:
    return name.replace("downsample", "shortcut").replace("fc.", "linear.").replace("layer", "blocks.")


def test_by_order_takes_other_names(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    path = written(tmp_path / "a.pth", {"state_dict": renamed(state, _foreign)})
    with pytest.raises(ModelError, match="try granet import --by-order"):
        import_weights(path, **SIZES)
    checkpoint = import_weights(path, **SIZES, by_order=True)
    assert_holds(checkpoint, state)
    assert "matched by order, not by name" in note(checkpoint)["remarks"]


def test_by_order_masks_keep_the_names_of_their_weights(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", renamed(dict(network().state_dict()), _foreign))
    mask = torch.rand(4, 64) < 0.5
    masks = written(tmp_path / "masks.pt", {"linear": mask})
    checkpoint = import_weights(path, **SIZES, by_order=True, mask_file=masks)
    assert torch.equal(checkpoint.masks["fc.weight"], mask)


def test_by_order_still_has_to_agree(tmp_path: Path) -> None:
    state = renamed(lenet(), lambda name: name.replace("fc", "layer"))
    swapped = {name: state[name] for name in sorted(state)}  # biases first
    with pytest.raises(ModelError, match=r"tensor 1 of the file.*got layer1.bias \[300\]; expected fc1.weight"):
        import_weights(written(tmp_path / "a.pth", swapped), **LENET, by_order=True)
    with pytest.raises(ModelError, match="another number of tensors than the network; got 4; expected 6"):
        import_weights(written(tmp_path / "b.pth", dict(list(state.items())[:4])), **LENET, by_order=True)
    safetensors.torch.save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(UsageError, match="has no order"):
        import_weights(tmp_path / "c.safetensors", **LENET, by_order=True)


# Files that are not what they should be


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, archive: bool) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match=r"got code to run, (_?io\.)?open"):
        import_weights(tmp_path / "a.pth", **LENET)
    with pytest.raises(CheckpointError, match="reads no other pickles"):
        import_weights(written(tmp_path / "b.pth", lenet()), **LENET, mask_file=tmp_path / "a.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", network())
    with pytest.raises(CheckpointError, match=r"code to run, granet.models.*save its state dict alone"):
        import_weights(path, **SIZES)


def _compressed(path: Path) -> None:
    source = io.BytesIO()
    torch.save(lenet(), source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def _beyond(layout: torch.layout) -> Tensor:
    """A sparse tensor of shape [2, 2] with a value in row 0 and column 9."""
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor([[0], [9]], [1.0], (2, 2), check_invariants=False)
    return torch.sparse_csr_tensor([0, 1, 1], [9], [1.0], (2, 2), check_invariants=False)


def _checkpoint(path: Path) -> None:
    save(path, import_weights(written(path.with_suffix(".pth"), lenet()), **LENET))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100), "neither a safetensors file nor one of"),
        (lambda path: path.write_bytes(pickle.dumps(lenet)), "torch cannot read the file"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 100), "the archive is damaged"),
        (lambda path: path.write_bytes(b"\x80\x02" + b"x" * 100), "torch cannot read the file"),
        (lambda path: path.write_bytes(safetensors.torch.save(lenet())[:-5]), "cut off.*Use another copy"),
        (lambda path: path.mkdir(), "got a folder"),
        (os.mkfifo, "not a regular file"),
        (lambda path: None, "No such file"),
        (lambda path: torch.save([1, 2], path), "not a state dict; got list"),
        (lambda path: torch.save({1: torch.zeros(2)}, path), "other keys than texts"),
        (lambda path: torch.save({"epoch": 3}, path), "no tensors in the file"),
        (lambda path: torch.save({"model": {"a": {1: torch.zeros(2)}}}, path), "no tensors in the file; got a"),
        (lambda path: torch.save({"model": {"model": {"net": {"net": {1: 2}}}}}, path), "other keys than texts"),
        (lambda path: torch.save(torch.zeros(2), path), "not a state dict; got Tensor"),
        (lambda path: torch.save({"a": torch.zeros(1).expand(10**15)}, path), "claims more values than the file has"),
        (
            lambda path: torch.save({"a": torch.sparse_coo_tensor(size=(2**40, 2), check_invariants=False)}, path),
            "stands for too many values",
        ),
        (lambda path: torch.save({"a": _beyond(torch.sparse_coo)}, path), "a damaged sparse tensor"),
        (lambda path: torch.save({"a": _beyond(torch.sparse_csr)}, path), "a damaged sparse tensor"),
        (lambda path: torch.save({"a": torch.zeros(2, device="meta")}, path), "not a plain tensor"),
        (
            lambda path: torch.save({"a_orig": torch.ones(1), "a_mask": torch.ones(1), "a": torch.ones(1)}, path),
            "as it",
        ),
        (
            lambda path: torch.save({"module.a": torch.ones(1), "a": torch.ones(1)}, path),
            "two tensors have the same name",
        ),
        (lambda path: torch.save({"module": torch.ones(1)}, path), "or one has none"),
        (_compressed, "does not compress"),
        (_checkpoint, "a granet checkpoint already"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "a.bin"
    write(path)
    with pytest.raises(FileError, match=message) as caught:
        import_weights(path, **LENET)
    assert str(path) in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_mutated_file_ends_in_an_error_of_ours_or_in_a_network(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = io.BytesIO()
    torch.save(lenet(), source, _use_new_zipfile_serialization=data.draw(st.booleans()))
    mutated = bytearray(source.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, 1500))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mutated") / "a.pth"
    path.write_bytes(mutated[: data.draw(st.sampled_from([len(mutated), len(mutated) // 2]))])
    try:
        checkpoint = import_weights(path, **LENET)
    except GranetError:
        return
    assert checkpoint.weights.keys() == lenet().keys()


# The command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_image_folder(tmp_path / "images", classes=4)
    written(tmp_path / "a.pth", {"state_dict": sparse(dict(network().state_dict())), "epoch": 3})
    written(tmp_path / "masks.pt", {"conv1": torch.ones(16, 3, 3, 3)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_the_command_writes_a_checkpoint_that_other_commands_take(capfd: pytest.CaptureFixture[str]) -> None:
    line = "import a.pth --model resnet8 --data images --infer-masks -o a.safetensors --json"
    assert run(line.split()) == 0
    out, err = capfd.readouterr()
    assert '"masks": "inferred"' in out
    assert "note: took 'state_dict', left out epoch" in err
    assert run(["inspect", "a.safetensors"]) == 0
    assert "imported  from a.pth; masks: inferred from zeros" in capfd.readouterr().out
    assert run(["eval", "a.safetensors", "--device", "cpu"]) == 0
    assert "image-folder, test split" in capfd.readouterr().out
    assert run(["verify", "a.safetensors"]) == 0


@pytest.mark.usefixtures("here")
def test_the_command_says_what_it_wrote(capfd: pytest.CaptureFixture[str]) -> None:
    line = "import a.pth --model resnet8 --image-size 8 --classes a,b,c,d --mask-file masks.pt -o b.safetensors"
    assert run([*line.split(), "--mean", "0.5,0.5,0.5", "--std", "1,1,1"]) == 0
    out, _ = capfd.readouterr()
    assert out.startswith("b.safetensors: ")
    assert out.endswith("KB, resnet8, density 1.0000, masks: read from masks.pt\n")
    assert load("b.safetensors").network.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("import a.pth --model resnet8 -o x", 2, "Add --image-size"),
        ("import a.pth --image-size 8 -o x", 2, "--model"),
        ("import a.pth --model resnet8 --image-size 8", 2, "--out"),
        ("import a.pth --model resnet8 --image-size 8 -o masks.pt", 2, "--overwrite"),
        ("import a.pth --model resnet8 --image-size 8 -o a.pth --overwrite", 2, "a.pth would be overwritten"),
        (
            "import a.pth --model resnet8 --image-size 8 --mask-file masks.pt -o masks.pt --overwrite",
            2,
            "masks.pt would",
        ),
        ("import a.pth --model resnet8 --image-size 8 --mean a,b -o x", 2, "--mean: not a list of numbers"),
        ("import a.pth --model resnet8 --image-size 8 --classes 99999999999999 -o x", 2, "out of range"),
        ("import a.pth --model resnet8 --data cifra10 -o x", 2, "cifar10"),
        ("import a.pth --model resnet20 --image-size 8 -o x", 1, "missing: layer1.1.conv1.weight"),
        ("import nowhere.pth --model resnet8 --image-size 8 -o x", 1, "nowhere.pth"),
        ("import a.pth --model resnet8 --image-size 8 -o no/x", 1, "no/x"),
    ],
)
def test_mistakes_of_the_command_are_explained(
    here: Path, capfd: pytest.CaptureFixture[str], line: str, code: int, message: str
) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert run(line.split()) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
