"""Files of other programs, each arranged in its own way: what is taken, what is said, how to take something else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from granet import models
from granet.checkpoint import Checkpoint, load
from granet.errors import CheckpointError, ModelError, UsageError
from granet.importing import conventions, import_weights, start_from
from granet_cli.app import run

LENET: dict[str, Any] = {"model": "lenet-300-100", "image_size": 4, "mean": [0.5], "std": [0.5]}
SIZES = {"in_channels": 1, "classes": 3, "image_size": 4}
DOCUMENT = Path(__file__).parents[1] / "docs/importing.md"

State = dict[str, Tensor]
WEIGHTS = ("fc1.weight", "fc2.weight", "fc3.weight")


def lenet(seed: int = 5) -> nn.Module:
    return models.build("lenet-300-100", **SIZES, seed=seed)


PLAIN: State = dict(lenet().state_dict())
OTHER: State = dict(lenet(seed=6).state_dict())
MASKS: State = {
    name: torch.rand(PLAIN[name].shape, generator=torch.Generator().manual_seed(1)) < 0.2 for name in WEIGHTS
}


def under(prefix: str, state: State = PLAIN) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def remarks(checkpoint: Checkpoint) -> str:
    return "\n".join(checkpoint.metrics["imported"]["remarks"])


def assert_holds(checkpoint: Checkpoint, state: State) -> None:
    assert checkpoint.weights.keys() == state.keys()
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in state.items())


def assert_masked(checkpoint: Checkpoint, masks: State = MASKS) -> None:
    assert all(torch.equal(checkpoint.masks[name], mask) for name, mask in masks.items())
    assert all(torch.equal(checkpoint.weights[name], PLAIN[name] * mask) for name, mask in masks.items())
    assert checkpoint.metrics["imported"]["masks"] == "given"


# Where weights lie


def _nested(state: State) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        layer, _, last = name.partition(".")
        tree.setdefault(layer, {})[last] = tensor
    return tree


@pytest.mark.parametrize(
    "row", [row for row in conventions.CONTAINERS if row.content != "masks"], ids=lambda row: row.key
)
def test_each_known_key_is_followed(tmp_path: Path, row: conventions.Container) -> None:
    checkpoint = import_weights(saved(tmp_path / "a.pth", {row.key: PLAIN, "epoch": 3}), **LENET)
    assert_holds(checkpoint, PLAIN)
    assert ("are averaged ones" in remarks(checkpoint)) == (row.content == "averaged weights")


@pytest.mark.parametrize("wrapper", conventions.WRAPPERS)
def test_what_each_wrapper_adds_is_removed(tmp_path: Path, wrapper: str) -> None:
    whole = under(f"{wrapper}.")
    part = {name.replace("fc2.", f"fc2.{wrapper}."): tensor for name, tensor in PLAIN.items()}
    for file, state in {"a.pth": whole, "b.pth": part}.items():
        assert_holds(import_weights(saved(tmp_path / file, state), **LENET), PLAIN)


@pytest.mark.parametrize(
    "value",
    [
        _nested(PLAIN),
        {"trainer": {"best": {"mine": PLAIN}}},
        {"state_dict": under("module._orig_mod.model.net."), "epoch": 3},
        {name: tensor.to_sparse() for name, tensor in PLAIN.items()},
        {"model": PLAIN, "args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float64(91.5)},
    ],
    ids=["dicts in dicts", "keys of one's own", "several prefixes", "sparse tensors", "arguments and an accuracy"],
)
def test_weights_are_found_wherever_they_lie(tmp_path: Path, value: object) -> None:
    assert_holds(import_weights(saved(tmp_path / "a.pth", value), **LENET), PLAIN)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_compressed_sparse_rows_are_weights_too(tmp_path: Path) -> None:
    state = {name: tensor.to_sparse_csr() if tensor.dim() == 2 else tensor for name, tensor in PLAIN.items()}
    assert_holds(import_weights(saved(tmp_path / "a.pth", state), **LENET), PLAIN)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_names_several_files(tmp_path: Path, kind: str) -> None:
    placed = {}
    for number, names in enumerate((WEIGHTS, tuple(name for name in PLAIN if name not in WEIGHTS)), start=1):
        file, part = f"model-0000{number}-of-00002.{kind}", {name: PLAIN[name] for name in names}
        placed |= dict.fromkeys(names, file)
        if kind == "safetensors":
            safetensors.torch.save_file(part, tmp_path / file)
        else:
            torch.save(part, tmp_path / file)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    assert_holds(import_weights(index, **LENET), PLAIN)
    first = start_from(index, lenet(7), LENET["model"], **SIZES).hash
    with pytest.raises(ModelError, match=r"one of several: name their index"):
        import_weights(tmp_path / f"model-00001-of-00002.{kind}", **LENET)
    changed = {**PLAIN, "fc1.weight": OTHER["fc1.weight"]}
    part = {name: changed[name] for name in WEIGHTS}
    safetensors.torch.save_file(part, tmp_path / placed[WEIGHTS[0]])
    assert start_from(index, lenet(7), LENET["model"], **SIZES).hash != first


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../a.safetensors"}}', "a file that is not beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "a file that is not beside it"),
        ('{"weight_map": {"a": "a.index.json"}}', "a file that is not beside it"),
        ('{"weight_map": {"a": 3}}', "a file that is not beside it"),
        ('{"weight_map": [1]}', "not an index"),
        ("[" * 50_000, "not an index"),
        ('{"weight_map": {"b": "part"}}', r"does not have the tensors that its index says; got differences: .*b"),
    ],
)
def test_an_index_names_what_lies_beside_it_or_is_refused(tmp_path: Path, index: str, message: str) -> None:
    saved(tmp_path / "part", PLAIN)
    (tmp_path / "a.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        import_weights(tmp_path / "a.index.json", **LENET)


# Averaged weights beside plain ones, and other choices


@pytest.mark.parametrize(
    ("value", "words", "choice"),
    [
        ({"state_dict": PLAIN, "state_dict_ema": OTHER}, "--key state_dict_ema takes those", {"key": "state_dict_ema"}),
        (
            {"model": PLAIN, "model_ema": {"n_averaged": torch.tensor(2), **under("module.", OTHER)}},
            "other tensors are in model_ema (averaged weights: torchvision's scripts, DeiT)",
            {"key": "model_ema"},
        ),
        (
            {**under("online_model."), **under("ema_model.", OTHER), "initted": torch.tensor(True)},
            "all of it is under 'ema_model' too (averaged weights); --prefix ema_model",
            {"prefix": ["ema_model"]},
        ),
        (
            {"state_dict": {**under("module.encoder_q."), **under("module.encoder_k.", OTHER)}},
            "--prefix encoder_k",
            {"prefix": ["encoder_k."]},
        ),
        (under("net.") | under("net_ema.module.", OTHER), "--prefix net_ema", {"prefix": ["net_ema"]}),
        (
            {"state_dict": under("model."), "current_model_state": under("model.", OTHER)},
            "whose state_dict has averaged ones); --key current_model_state",
            {"key": "current_model_state"},
        ),
    ],
    ids=["timm", "torchvision", "ema_pytorch", "MoCo", "one's own", "Lightning"],
)
def test_plain_weights_are_taken_and_how_to_take_averaged_ones_is_said(
    tmp_path: Path, value: object, words: str, choice: dict[str, Any]
) -> None:
    path = saved(tmp_path / "a.pth", value)
    plain = import_weights(path, **LENET)
    assert_holds(plain, PLAIN)
    assert words in remarks(plain)
    assert_holds(import_weights(path, **LENET, **choice), OTHER)


def test_of_two_that_could_be_meant_neither_is_guessed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"student": PLAIN, "teacher": OTHER})
    with pytest.raises(ModelError, match=r"several times; got under student, teacher.*--prefix student"):
        import_weights(path, **LENET)
    assert_holds(import_weights(path, **LENET, prefix=["teacher"]), OTHER)
    assert_holds(import_weights(path, **LENET, key="teacher"), OTHER)
    both = saved(tmp_path / "b.pth", {**PLAIN, **under("module.", OTHER)})
    with pytest.raises(CheckpointError, match=r"two tensors have the same name.*--prefix module"):
        import_weights(both, **LENET)
    assert_holds(import_weights(both, **LENET, prefix=["module"]), OTHER)


def test_parts_in_several_places_are_put_together_when_asked(tmp_path: Path) -> None:
    state = {("head." if name.startswith("fc3") else "backbone.") + name: tensor for name, tensor in PLAIN.items()}
    path = saved(tmp_path / "a.pth", {"state_dict": {**state, "neck.scale": torch.ones(3)}, "meta": {}})
    with pytest.raises(ModelError, match="try granet import --prefix backbone --prefix head"):
        import_weights(path, **LENET)
    checkpoint = import_weights(path, **LENET, prefix=["backbone", "head"])
    assert_holds(checkpoint, PLAIN)
    assert "left out 1 other tensor" in remarks(checkpoint)


# What is not the network's


def _example(pattern: str) -> str:
    """A name that matches a pattern of fnmatch."""
    return pattern.replace("[0-9]", "1").replace("[ao]", "a").replace("*", "x")


@pytest.mark.parametrize("row", conventions.BY_PRODUCTS, ids=lambda row: row.what)
def test_known_by_products_are_left_out_and_named(tmp_path: Path, row: conventions.ByProduct) -> None:
    names = [_example(pattern) for pattern in row.patterns]
    assert all(row.covers(name, 1) for name in names)
    state = {**under("model."), **{name: torch.ones(1) for name in names}}
    checkpoint = import_weights(saved(tmp_path / "a.pth", {"state_dict": state}), **LENET)
    assert_holds(checkpoint, PLAIN)
    assert "left out " in remarks(checkpoint)
    assert names[0].partition(".")[0] in remarks(checkpoint)
    network = lenet(7)
    start_from(tmp_path / "a.pth", network, LENET["model"], **SIZES)
    assert torch.equal(network.get_parameter("fc1.weight"), PLAIN["fc1.weight"])


def test_averaging_and_profiling_a_network_leave_it_importable(tmp_path: Path) -> None:
    averaged = saved(tmp_path / "a.pth", AveragedModel(lenet()).state_dict())
    assert_holds(import_weights(averaged, **LENET), PLAIN)
    counted = lenet()
    for module in counted.modules():  # as thop does
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    profiled = import_weights(saved(tmp_path / "b.pth", counted.state_dict()), **LENET)
    assert_holds(profiled, PLAIN)
    assert "counters of a profiler: total_ops, total_params, flatten.* (2), fc1.* (2)" in remarks(profiled)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_networks_with_auxiliary_classifiers_fit(tmp_path: Path, name: str) -> None:
    torchvision = models.torchvision_guard.import_torchvision()
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(weights=None, init_weights=False, num_classes=3)
    state = {key: torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in network.state_dict().items()}
    network = models.build(f"torchvision:{name}", in_channels=3, classes=3, image_size=96, trial=False)
    left_out = start_from(
        saved(tmp_path / "a.pth", state), network, f"torchvision:{name}", in_channels=3, classes=3, image_size=96
    ).remarks
    assert "auxiliary classifiers" in left_out[0]
    assert "--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5" in left_out[1]


def test_a_tensor_of_that_name_in_the_network_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_named.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels, classes):\n"
        "        super().__init__()\n"
        "        self.loss, self.aux1 = nn.Linear(16, 5), nn.Linear(5, classes)\n"
        "    def forward(self, x):\n"
        "        return self.aux1(self.loss(x.flatten(1)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from own_named import Net

    state = Net(1, 3).state_dict()
    made = import_weights(
        saved(tmp_path / "a.pth", state), **{**LENET, "model": "own_named:Net"}, in_channels=1, classes=3
    )
    assert made.weights.keys() == state.keys()


def test_the_rest_is_named_and_left_out_when_asked(tmp_path: Path) -> None:
    extra = {"rotation.fc.weight": torch.ones(3), "rotation.fc.bias": torch.ones(3), "scale": torch.ones(1)}
    path = saved(tmp_path / "a.pth", {"state_dict": {**PLAIN, **extra}})
    with pytest.raises(ModelError) as caught:
        import_weights(path, **LENET)
    assert "leave them out with granet import --ignore 'rotation.*' --ignore 'scale'" in str(caught.value)
    assert "The file has fc1.* (2), fc2.* (2), fc3.* (2), rotation.* (2), scale" in str(caught.value)
    for patterns in (["rotation.*", "scale"], ["rotation", "sc?le"]):
        checkpoint = import_weights(path, **LENET, ignore=patterns)
        assert_holds(checkpoint, PLAIN)
        assert "left out, as asked: rotation.* (2)" in remarks(checkpoint)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ignore": ["fc9"]}, r"--ignore fc9: nothing in the file has such a name\. It has fc1\.\* \(2\)"),
        ({"prefix": ["model"]}, r"--prefix model: no tensor of the file is under this prefix\. It has fc1"),
        (
            {"key": "ema"},
            r"--key ema: there is nothing under this key in the file; got state_dict \(6 tensors\), epoch",
        ),
    ],
)
def test_choices_that_are_not_in_the_file_are_mistakes(tmp_path: Path, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_weights(saved(tmp_path / "a.pth", {"state_dict": PLAIN, "epoch": 3}), **LENET, **choice)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.jit.save(torch.jit.trace(lenet(), torch.zeros(1, 1, 4, 4)), path), "a TorchScript program"),
        (lambda path: np.savez(path, **{name: tensor.numpy() for name, tensor in PLAIN.items()}), "arrays of NumPy"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match=f"{message}, not tensors by name"):
        import_weights(tmp_path / "a.npz", **LENET)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.optim.Adam(lenet().parameters()).state_dict(), "no tensors in the file; got state, param_groups"),
        ({"optimizer": torch.optim.SGD(lenet().parameters(), 0.1).state_dict()}, r"optimizer \(the state of an optim"),
        ({"shadow_params": list(lenet().parameters())}, r"shadow_params \(a list of tensors without names\)"),
        (
            {f"fc1.parametrizations.weight.{part}": torch.ones(2) for part in ("original", "x")},
            "permanent before saving",
        ),
    ],
)
def test_files_without_the_weights_say_what_they_have(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises((CheckpointError, ModelError), match=message):
        import_weights(saved(tmp_path / "a.pth", value), **LENET)


def test_another_number_of_classes_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the file has 3 classes, not 10"):
        import_weights(saved(tmp_path / "a.pth", PLAIN), **LENET, classes=10)


# Masks


def _pruned() -> State:
    model = lenet()
    for name, mask in MASKS.items():
        prune.custom_from_mask(model.get_submodule(name.partition(".")[0]), "weight", mask)
    return dict(model.state_dict())


def _parametrized(name: str) -> str:
    return name.replace(".weight", ".parametrizations.weight.original")


@pytest.mark.parametrize(
    "value",
    [
        _pruned(),
        {"state_dict": {**under("model.module.", _pruned()), "loss_fn.weight": torch.ones(3)}},
        {**PLAIN, **{f"{name}_mask": mask.float() for name, mask in MASKS.items()}},
        {**PLAIN, **{name.replace(".weight", ".mask"): mask for name, mask in MASKS.items()}},
        {
            **{_parametrized(name): tensor for name, tensor in PLAIN.items()},
            **{f"{_parametrized(name).removesuffix('original')}0.mask": mask for name, mask in MASKS.items()},
        },
        {name.replace(".", ".module.") if "weight" in name else name: tensor for name, tensor in PLAIN.items()}
        | {f"{name}_mask": mask.float() for name, mask in MASKS.items()},
        {"state_dict": under("module."), "masks": under("module.", MASKS), "epoch": 2},
        {"model": PLAIN, "scheduler": {"step": 3, "backward_masks": list(MASKS.values())}},
    ],
    ids=["prune", "prune, wrapped", "SynFlow", "a mask a layer", "parametrized", "NNI", "beside", "RigL in PyTorch"],
)
def test_masks_in_the_file_are_found(tmp_path: Path, value: object) -> None:
    assert_masked(import_weights(saved(tmp_path / "a.pth", value), **LENET))
    network = lenet(7)
    start_from(tmp_path / "a.pth", network, LENET["model"], **SIZES)
    assert torch.equal(network.get_parameter("fc1.weight"), PLAIN["fc1.weight"] * MASKS["fc1.weight"])


@pytest.mark.parametrize(
    "value",
    [
        _nested(MASKS),
        {"masks": list(MASKS.values())},
        [mask.to(torch.uint8) for mask in MASKS.values()],
        {"state": {name: {"mask": mask} for name, mask in MASKS.items()}, "groups": [{"tensor_fqn": "a"}]},
        {name: mask.float().to_sparse() for name, mask in MASKS.items()},
        _pruned(),
    ],
    ids=["NNI", "a list in a dict", "a list", "torch.ao", "sparse", "a pruned network"],
)
def test_mask_files_of_many_programs_are_read(tmp_path: Path, value: object) -> None:
    masks = saved(tmp_path / "m.pth", value)
    assert_masked(import_weights(saved(tmp_path / "a.pth", PLAIN), **LENET, mask_file=masks))


def test_a_layer_without_an_entry_in_a_list_stays_dense(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"model": PLAIN, "masks": [MASKS["fc1.weight"], None, MASKS["fc3.weight"]]})
    checkpoint = import_weights(path, **LENET)
    assert checkpoint.masks["fc2.weight"].all()
    assert "took masks from 'masks'" in remarks(checkpoint)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            [MASKS["fc1.weight"]],
            "one for each weight that can be masked, in their order, or None; got 1; expected 3: fc1",
        ),
        (list(MASKS.values())[::-1], r"mask of fc1\.weight: the mask has another shape"),
        ([3, 4, torch.ones(2)], "not a list of masks; got entry 0 of type int"),
        ({name: torch.ones(mask.numel() // 8, dtype=torch.uint8) for name, mask in MASKS.items()}, "bits packed"),
    ],
)
def test_masks_that_do_not_belong_are_refused(tmp_path: Path, masks: object, message: str) -> None:
    path = saved(tmp_path / "m.pth", masks)
    with pytest.raises(CheckpointError, match=message):
        import_weights(saved(tmp_path / "a.pth", PLAIN), **LENET, mask_file=path)


def test_masks_with_1_for_pruned_are_refused(tmp_path: Path) -> None:
    sparse = {name: tensor * MASKS[name] if name in MASKS else tensor for name, tensor in PLAIN.items()}
    turned = saved(tmp_path / "m.pth", {name: ~mask for name, mask in MASKS.items()})
    with pytest.raises(CheckpointError, match="every weight within the mask is zero, and others are not"):
        import_weights(saved(tmp_path / "a.pth", sparse), **LENET, mask_file=turned)


def test_what_only_looks_like_masks_can_be_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"model": PLAIN, "masks": {"attention": torch.ones(3, 3)}})
    with pytest.raises(CheckpointError, match=r"'masks', tensor 'attention': a mask for a weight.*--ignore masks"):
        import_weights(path, **LENET)
    assert_holds(import_weights(path, **LENET, ignore=["masks"]), PLAIN)


# Safety


def test_a_file_that_refers_to_itself_is_read_in_bounded_time(tmp_path: Path) -> None:
    node: dict[str, Any] = {"epoch": 3}
    for _ in range(12):
        node = {str(number): node for number in range(20)}
    node["itself"] = node
    with pytest.raises(CheckpointError, match="no tensors in the file"):
        import_weights(saved(tmp_path / "a.pth", node), **LENET)


def test_classes_beside_weights_are_not_imported_and_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got code to run, argparse\.Action"):
        import_weights(saved(tmp_path / "a.pth", {"model": PLAIN, "args": argparse.Action([], "x")}), **LENET)


# The command and the documents


def test_the_command_takes_the_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.pth", {"ours": {**under("net."), "head.weight": torch.ones(2)}, "theirs": under("net.", OTHER)})
    line = "import a.pth --model lenet-300-100 --image-size 4 --mean 0.5 --std 0.5 -o a.safetensors"
    assert run([*line.split(), "--key", "ours", "--ignore", "head.*"]) == 0
    assert_holds(load("a.safetensors"), PLAIN)
    assert run([*line.split(), "--overwrite", "--key", "theirs", "--prefix", "net"]) == 0
    assert_holds(load("a.safetensors"), OTHER)
    assert "took 'theirs', as asked" in capfd.readouterr().err


def _rows() -> Sequence[str]:
    tables: list[Callable[[], list[str]]] = [
        lambda: [f"| `{row.key}` | {row.content} | {row.used_by} |" for row in conventions.CONTAINERS],
        lambda: [f"| `{name}` | {whose} |" for name, whose in conventions.WRAPPERS.items()],
        lambda: [f"| {row.what} | {', '.join(f'`{p}`' for p in row.patterns)} |" for row in conventions.BY_PRODUCTS],
        lambda: [f"| `{name}` | {what} |" for name, what in conventions.STAND_INS.items()],
    ]
    return [row for table in tables for row in table()]


def test_the_document_lists_every_convention() -> None:
    text = DOCUMENT.read_text()
    assert [row for row in _rows() if row not in text] == []
    assert all(layout.used_by in text for layout in conventions.MASK_LAYOUTS)
