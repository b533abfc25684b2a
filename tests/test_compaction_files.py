"""Smaller networks in files, and ``granet compact``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from exporters import compaction
from granet.checkpoint import Checkpoint, Network, save
from granet.errors import CheckpointError, FileError, GranetError, ModelError
from granet.models import build, from_checkpoint
from granet_cli.app import run
from tests.checkpoints import RECIPE, checkpoint
from tests.test_compaction_networks import damage

CLASSES = ("coat", "shoe", "hat")


def network(name: str = "resnet8", size: int = 12) -> Network:
    return Network(name=name, in_channels=1, classes=CLASSES, image_size=size, mean=(0.25,), std=(0.5,))


def trained(name: str = "resnet8", share: float = 0.3, size: int = 12) -> Checkpoint:
    """A checkpoint of a network with dead channels."""
    model = build(name, in_channels=1, classes=len(CLASSES), image_size=size)
    damage(model, share, seed=3)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    masks = {name: weight != 0 for name, weight in weights.items() if weight.ndim > 1}
    return checkpoint(
        weights=weights,
        masks=masks,
        buffers={name: buffer.clone() for name, buffer in model.named_buffers()},
        explored=masks,
        optimizer={},
        accumulators={},
        network=network(name, size),
        recipe=RECIPE,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and the smaller network that was made of it."""
    folder = tmp_path_factory.mktemp("compaction")
    value = trained()
    save(folder / "run.safetensors", value)
    model = from_checkpoint(value)
    small = compaction.compact(model, (torch.zeros(2, 1, 12, 12),)).model
    compaction.write(folder / "small.safetensors", small, value.network)
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in place.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_smaller_network_is_loaded_from_its_file(here: Path) -> None:
    value = trained()
    images = torch.randn(4, 1, 12, 12)
    model = compaction.load("small.safetensors")
    assert not model.training
    expected = from_checkpoint(value).eval()(images)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert compaction.describe("small.safetensors") == value.network
    assert model.get_submodule("layer1.0.conv1").out_channels < 16
    assert sum(p.numel() for p in model.parameters()) < sum(w.numel() for w in value.weights.values())


def test_the_file_is_plain_safetensors_with_the_names_of_the_network(here: Path) -> None:
    tensors = safetensors.torch.load_file("small.safetensors")
    model = compaction.load("small.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())


def test_equal_networks_make_identical_files(here: Path) -> None:
    compaction.write("again.safetensors", compaction.load("small.safetensors"), network())
    assert Path("again.safetensors").read_bytes() == Path("small.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["lenet-300-100", "vgg19", "torchvision:mobilenet_v2"])
def test_networks_of_every_family_are_loaded_from_their_files(tmp_path: Path, name: str) -> None:
    described, size = network(name, 32), (2, 1, 32, 32)
    model = build(name, in_channels=1, classes=3, image_size=32)
    damage(model, 0.3, seed=4)
    compacted = compaction.compact(model, (torch.zeros(size),))
    assert compacted.removed > 0
    compaction.write(tmp_path / "small.safetensors", compacted.model, described)
    again, images = compaction.load(tmp_path / "small.safetensors"), torch.randn(size)
    assert torch.equal(again(images), compacted.model(images))


FACTORY = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.left, self.right = nn.Conv2d(1, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)
        self.right.weight, self.head = self.left.weight, nn.Linear(5, classes)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, images):
        hidden = self.conv(images).mean((2, 3)) + self.shift
        return self.head(self.left(hidden) + self.right(hidden))
"""


def test_a_network_of_the_users_needs_its_factory_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("compactable.py").write_text(FACTORY)
    name = "compactable:Tied"
    model = build(name, in_channels=1, classes=3, image_size=12)
    model.left.weight.data[:, 1] = 0.0  # type: ignore[union-attr, operator]
    small = compaction.compact(model, (torch.zeros(2, 1, 12, 12),))
    assert small.removed == 1
    compaction.write("own.safetensors", small.model, network(name))
    with pytest.raises(ModelError, match="names code to run"):
        compaction.load("own.safetensors")
    with pytest.raises(ModelError, match="names code to run"):
        compaction.load("own.safetensors", factory="os:getcwd")
    again = compaction.load("own.safetensors", factory=name)
    images = torch.randn(2, 1, 12, 12)
    assert torch.equal(again(images), small.model(images))
    assert again.left.weight is again.right.weight


# Hostile files


def forged(**changes: Any) -> bytes:
    """The small network of the fixture with parts exchanged: tensors by name, or fields of its description."""
    with Path("small.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = safetensors.torch.load_file("small.safetensors")
    fields = json.loads(header["__metadata__"]["granet.network"])
    for name, value in changes.items():
        if name == "without":
            del tensors[value]
        elif name == "tensors":
            tensors |= value
        elif name == "raw":
            return safetensors.torch.save(tensors, {"granet.network": value})
        else:
            fields[name] = value
    return safetensors.torch.save(tensors, {"granet.network": json.dumps(fields)})


HOSTILE: list[tuple[dict[str, Any], type[GranetError], str]] = [
    ({"raw": "["}, CheckpointError, "JSON"),
    ({"raw": "[]"}, CheckpointError, "object"),
    ({"raw": "{}"}, CheckpointError, "version"),
    ({"version": 2}, CheckpointError, "version"),
    ({"extra": 1}, CheckpointError, "unknown header field"),
    ({"image_size": 0}, CheckpointError, "image_size"),
    ({"mean": [1.0, 2.0]}, CheckpointError, "mean"),
    ({"name": "resnet9"}, GranetError, "resnet9"),
    ({"name": "vgg19"}, ModelError, "belongs to another network"),
    ({"name": "lenet-300-100", "image_size": 2**40}, ModelError, "cannot be built"),
    ({"image_size": 2**50}, ModelError, "do not fit"),
    ({"in_channels": 2**50, "mean": [], "std": []}, CheckpointError, "mean"),
    ({"in_channels": 2, "mean": [0.0] * 2, "std": [1.0] * 2}, ModelError, "do not fit"),
    ({"classes": ["a", "b", "c", "d"]}, ModelError, "one logit for each class"),
    ({"without": "fc.bias"}, ModelError, "the file lacks it"),
    ({"tensors": {"fc.extra": torch.ones(1)}}, ModelError, "the network lacks it"),
    ({"tensors": {"fc.bias": torch.ones(3, 1)}}, ModelError, "fc.bias"),
    ({"tensors": {"fc.bias": torch.ones(4)}}, ModelError, "fc.bias"),
    ({"tensors": {"fc.bias": torch.ones(0)}}, ModelError, "fc.bias"),
    ({"tensors": {"fc.bias": torch.ones(3, dtype=torch.int32)}}, ModelError, "fc.bias"),
    ({"tensors": {"fc.bias": torch.ones(3, dtype=torch.float16)}}, ModelError, "precision"),
    ({"tensors": {"bn1.weight": torch.ones(2)}}, ModelError, "do not fit"),
    ({"tensors": {"conv1.weight": torch.ones(2, 1, 3, 3)}}, ModelError, "do not fit"),
]


@pytest.mark.parametrize(
    ("changes", "kind", "message"), HOSTILE, ids=[f"{next(iter(c[0]))}-{i}" for i, c in enumerate(HOSTILE)]
)
def test_a_file_that_contradicts_itself_is_refused(
    here: Path, changes: dict[str, Any], kind: type[GranetError], message: str
) -> None:
    Path("forged.safetensors").write_bytes(forged(**changes))
    with pytest.raises(kind, match=message):
        compaction.load("forged.safetensors")


@pytest.mark.parametrize("file", ["run.safetensors", "empty", "nowhere"])
def test_other_files_are_refused(here: Path, file: str) -> None:
    Path("empty").touch()
    with pytest.raises(FileError, match=file):
        compaction.load(file)
    with pytest.raises(FileError, match=file):
        compaction.describe(file)


def test_damage_anywhere_in_the_header_is_an_error_or_harmless(here: Path) -> None:
    whole = np.fromfile("small.safetensors", np.uint8)
    random, path = np.random.default_rng(0), Path("damaged.safetensors")
    length = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    for _ in range(60):
        data = whole.copy()
        data[random.integers(length)] ^= 1 << random.integers(8)
        path.write_bytes(data.tobytes())
        with contextlib.suppress(GranetError):
            compaction.load(path)


def test_a_network_that_cannot_be_stored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be stored"):
        compaction.write(tmp_path / "x", nn.Linear(2, 2, dtype=torch.complex64), network())
    with pytest.raises(CheckpointError, match="precision"):
        compaction.write(tmp_path / "x", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()), network())
    with pytest.raises(FileError, match="nowhere"):
        compaction.write(tmp_path / "nowhere/x", nn.Linear(2, 2), network())
    assert not list(tmp_path.iterdir())


# The command


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Granet = Callable[..., Answer]


@pytest.fixture
def granet(capfd: pytest.CaptureFixture[str]) -> Granet:
    def call(*arguments: str) -> Answer:
        capfd.readouterr()
        code = run(arguments)
        return Answer(code, *capfd.readouterr())

    return call


def test_the_command_writes_the_smaller_network_and_reports(granet: Granet, here: Path) -> None:
    answer = granet("compact", "run.safetensors", "-o", "new.safetensors", "--json")
    assert (answer.code, answer.err) == (0, "")
    told = json.loads(answer.out)
    assert Path("new.safetensors").read_bytes() == Path("small.safetensors").read_bytes()
    model = compaction.load("new.safetensors")
    assert told["out"] == "new.safetensors"
    assert told["bytes"] == Path("new.safetensors").stat().st_size
    assert told["parameters"]["after"] == sum(p.numel() for p in model.parameters())
    assert told["flops"]["after"] < told["flops"]["before"]
    assert told["removed"] == sum(layer["outputs"] - layer["outputs_kept"] for layer in told["layers"]) > 0
    assert told["difference"] < 1e-5


def test_the_command_prints_a_table(granet: Granet, here: Path) -> None:
    answer = granet("compact", "run.safetensors", "-o", "new.safetensors")
    assert (answer.code, answer.err) == (0, "")
    assert "channels" in answer.out
    assert "layer1.0.conv1" in answer.out
    assert "layers became smaller" in answer.out
    assert "\x1b" not in answer.out


def test_a_network_with_nothing_to_remove_is_reported(granet: Granet, here: Path) -> None:
    save("whole.safetensors", trained("lenet-300-100", share=0.0))
    answer = granet("compact", "whole.safetensors", "-o", "new.safetensors")
    assert answer.code == 0
    assert "none to remove" in answer.out
    assert "there is nothing to remove" in answer.out
    assert "layers became smaller" not in answer.out
    images = torch.randn(2, 1, 12, 12)
    whole: Tensor = from_checkpoint(trained("lenet-300-100", share=0.0)).eval()(images)
    assert torch.equal(compaction.load("new.safetensors")(images), whole)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("compact run.safetensors", 2, "-o"),
        ("compact run.safetensors -o small.safetensors", 2, "--overwrite"),
        ("compact run.safetensors -o run.safetensors --overwrite", 2, "would be overwritten"),
        ("compact run.safetensors -o x --model mine:net", 2, "holds another network"),
        ("compact small.safetensors -o x", 1, "not a granet checkpoint"),
        ("compact nowhere -o x", 1, "nowhere"),
        ("compact run.safetensors -o nowhere/x", 1, "nowhere/x"),
    ],
)
def test_a_mistake_is_explained_and_writes_no_file(
    granet: Granet, here: Path, line: str, code: int, message: str
) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*")}
    answer = granet(*line.split())
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert {path: path.read_bytes() for path in here.rglob("*")} == before


def test_another_file_is_replaced_when_asked(granet: Granet, here: Path) -> None:
    Path("old").write_text("old")
    assert granet("compact", "run.safetensors", "-o", "old", "--overwrite").code == 0
    assert compaction.describe("old") == network()
