"""Islands of sparse layers in exported files: what they hold, and that the file means the same without the kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from exporters import graph_cleanup, onnx_files, onnx_inspection, runtime, tracing
from exporters.encoding import encode, inflate
from exporters.islands import Island, add_islands, inline_islands
from granet import session
from granet.errors import ModelError
from granet.kernels import library
from granet.kernels.program import island_name
from tests.commandline import Granet

WIDTH, SIZE = 48, 12


class Block(nn.Module):
    """A residual block between dense layers, then a pooled classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.one, self.two = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.down = nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1)
        self.classifier = nn.Linear(2 * WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        x = F.relu(x + self.two(F.relu6(self.one(x))))
        return self.classifier(F.silu(self.down(x)).mean((2, 3)))


class Pools(Block):
    """The same layers with everything else that an island can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)
        self.side = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardswish(self.one(F.relu(self.stem(images))))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.cat([F.max_pool2d(self.two(x), 3, 2, 1), F.avg_pool2d(self.side(x), 2)], 1)
        x = self.down(x[:, :WIDTH] + x[:, WIDTH:])
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


@cache
def exported(
    network: Callable[[], nn.Module], *, sparse: tuple[str, ...] = ("one", "two", "down"), precision: str = "fp32"
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[Island, ...]]:
    """The graph of a network with plain weights, and with encoded ones in islands, where a tenth is not zero."""
    model = network().eval()
    with torch.no_grad():
        for name in sparse:
            weight = model.get_submodule(name).weight
            weight.mul_(torch.rand_like(weight) < 0.1)
    traced = tracing.trace(model, (torch.randn(2, 3, SIZE, SIZE),), where="network", opset=None)
    dense = graph_cleanup.serialize(traced.model)
    scope = [tensor.name for tensor in dense.graph.initializer if len(tensor.dims) > 1]
    encoded = encode(dense, encoding="auto", precision=precision, scope=scope).model
    return encoded, *add_islands(encoded, dense)


def outputs(model: onnx.ModelProto, folder: Path, *, batch: int = 3) -> np.ndarray:
    onnx_files.write(folder / "model.onnx", model)
    images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
    return runtime.open_session(folder / "model.onnx").run([images])[0]


def test_an_island_reaches_from_the_first_sparse_layer_to_the_last(tmp_path: Path) -> None:
    encoded, model, islands = exported(Block)
    assert [island.layers for island in islands] == [("one.weight", "two.weight", "down.weight")]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Island0") == 1
    assert {"Conv", "Relu", "ReduceMean", "Gemm", "Island0"} == set(kinds)  # stem and classifier are dense
    assert kinds.count("Conv") == 1
    assert islands[0].inputs != islands[0].outputs
    np.testing.assert_array_equal(outputs(model, tmp_path), outputs(encoded, tmp_path))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_with_islands_gives_the_bits_of_one_without(tmp_path: Path, precision: str) -> None:
    encoded, model, islands = exported(Pools, precision=precision)
    assert sum(len(island.layers) for island in islands) >= 3
    onnx.checker.check_model(model, full_check=True)
    expected = outputs(encoded, tmp_path)
    np.testing.assert_array_equal(outputs(model, tmp_path), expected)
    np.testing.assert_array_equal(outputs(inline_islands(model), tmp_path), expected)
    np.testing.assert_array_equal(outputs(inflate(model), tmp_path), expected)


def test_weights_in_islands_are_inspected_as_those_outside() -> None:
    encoded, model, _ = exported(Block)
    plain, islands = (onnx_inspection.inspect(each) for each in (encoded, model))
    assert (islands.parameters, islands.active) == (plain.parameters, plain.active)
    assert {layer.name: layer.active for layer in islands.layers} == {
        layer.name: layer.active for layer in plain.layers
    }


def test_weights_that_custom_operators_cannot_read_are_in_no_island() -> None:
    model = Block().eval()
    with torch.no_grad():
        for layer in (model.one, model.two, model.down):
            layer.weight.mul_(torch.rand_like(layer.weight) < 0.1)
    traced = tracing.trace(model, (torch.randn(2, 3, SIZE, SIZE),), where="network", opset=21)
    dense = graph_cleanup.serialize(traced.model)
    scope = [tensor.name for tensor in dense.graph.initializer if len(tensor.dims) > 1]
    counts = []
    for uint4 in (True, False):
        encoded = encode(dense, encoding="gaps4", precision="fp32", scope=scope, uint4=uint4).model
        counts.append(len(add_islands(encoded, dense)[1]))
    assert counts == [0, 1]


def test_dense_networks_have_no_islands() -> None:
    encoded, model, islands = exported(Block, sparse=())
    assert not islands
    assert model is encoded


def test_a_weight_that_is_read_outside_too_is_stored_once(tmp_path: Path) -> None:
    class Shared(Block):
        def forward(self, images: Tensor) -> Tensor:
            picture = images.mean() + torch.zeros(1, WIDTH, 3, 3)
            return super().forward(images) + F.conv2d(picture, self.one.weight).sum()

    encoded, model, islands = exported(Shared)
    assert islands
    stored = [tensor.name for tensor in model.graph.initializer]
    assert len(stored) == len(set(stored))
    assert sum(name.startswith("one.weight/values") for name in stored) == 1
    np.testing.assert_array_equal(outputs(model, tmp_path), outputs(encoded, tmp_path))


def _without_function(model: onnx.ModelProto) -> None:
    del model.functions[:]


def _with_fewer_inputs(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Island0").input.pop()


def _that_calls_itself(model: onnx.ModelProto) -> None:
    function = next(function for function in model.functions if function.name == "Island0")
    function.node.append(helper.make_node("Island0", [], ["again"], domain="ai.granet"))


def _in_a_branch(model: onnx.ModelProto) -> None:
    call = next(node for node in model.graph.node if node.op_type == "Island0")
    branch = helper.make_graph([call], "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch))


@pytest.mark.parametrize("damage", [_without_function, _with_fewer_inputs, _that_calls_itself, _in_a_branch])
def test_damaged_islands_are_refused(damage: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported(Block)[1])
    damage(model)
    for reader in (inline_islands, inflate, onnx_inspection.inspect):
        with pytest.raises(ModelError, match="island"):
            reader(model)


def test_operator_names_end_at_63() -> None:
    assert (island_name(0), island_name(63)) == ("Island0", "Island63")
    with pytest.raises(ValueError, match="64"):
        island_name(64)


# With the kernels

with_kernels = pytest.mark.skipif(library.path() is None, reason=library.MISSING)


@with_kernels
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("network", [Block, Pools])
def test_kernels_compute_what_the_file_says(tmp_path: Path, network: Callable[[], nn.Module], precision: str) -> None:
    model = exported(network, precision=precision)[1]
    expected = outputs(model, tmp_path)
    images = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    opened = session(tmp_path / "model.onnx")
    found = opened.run(None, {opened.get_inputs()[0].name: images})[0]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@with_kernels
def test_the_command_line_uses_the_kernels(granet: Granet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = "--epochs 1 --batch-size 900 --set method.interval=2it --set method.density=0.05 --set method.end=6it"
    assert granet(*f"train --model tests.test_islands:make --out run {settings}".split()).code == 0
    model = ("--model", "tests.test_islands:make")
    answer = granet("export", "--onnx", "run/last.safetensors", "-o", "sparse.onnx", "--json", *model)
    assert answer.code == 0, answer.err
    report = answer.json()
    assert len(report["islands"]) == 1
    assert 0 <= report["kernels_max_rel_error"] < 1e-5
    scores = [
        granet("eval", file, *extra, "--json") for file, extra in (("sparse.onnx", ()), ("run/last.safetensors", model))
    ]
    assert scores[0].json()["accuracy"] == pytest.approx(scores[1].json()["accuracy"], abs=0.002)
    assert granet("export", "--onnx", "run/last.safetensors", "-o", "plain.onnx", "--no-kernels", *model).code == 0
    assert "Island0" not in {node.op_type for node in onnx_files.read("plain.onnx").graph.node}


def make(classes: int = 10) -> nn.Module:
    """A network for the embedded images."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


@with_kernels
def test_the_library_is_found_by_other_programs(granet: Granet) -> None:
    answer = granet("kernels", "--path")
    assert (answer.code, Path(answer.out.strip())) == (0, library.path())
    assert granet("kernels", "--json").json() == {"path": str(library.path()), "missing": None}


def test_without_the_library_everything_runs_and_says_so(
    granet: Granet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "path", lambda: None)
    model = exported(Block)[1]
    outputs(model, tmp_path)
    assert len(session(tmp_path / "model.onnx").get_outputs()) == 1
    answer = granet("kernels", "--path")
    assert (answer.code, "without its kernels" in answer.err) == (2, True)
