"""Training through torch.compile: the same masks, nearly the same weights, and a clear word where it cannot be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from granet.checkpoint import load
from granet.errors import Interrupted, ModelError, UsageError
from granet.recipe import Recipe
from granet.training import RunFolder, compiling, resume, train
from tests.synthetic import arrays_dataset

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)


def recipe(compile_it: bool, model: str = "lenet-300-100") -> Recipe:
    return Recipe.from_toml(
        f"""
        name = "tiny"
        model.name = "{model}"
        data = {{name = "image-folder", augment = "crop-flip"}}
        method = {{name = "granet", density = 0.1, interval = "3it", end = "9it"}}
        optimizer = {{name = "sgd", learning_rate = 0.05, momentum = 0.9, weight_decay = 1e-4}}
        schedule = {{name = "cosine", warmup = "2it"}}
        training = {{epochs = 3, batch_size = 5, compile = {str(compile_it).lower()}}}
        """,
        where="test",
    )


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch, of itself
def test_a_compiled_network_trains_to_the_same_masks(tmp_path: Path) -> None:
    data, eager, compiled = arrays_dataset(), RunFolder(tmp_path / "eager"), RunFolder(tmp_path / "compiled")
    train(recipe(False), eager, CPU, dataset=data)
    train(recipe(True), compiled, CPU, dataset=data)
    one, other = load(eager.last), load(compiled.last)
    for name, mask in one.masks.items():
        assert torch.equal(other.masks[name], mask), name
        assert not other.weights[name][~mask].any(), "what is not active is zero"
        assert not other.optimizer[name]["momentum_buffer"][~mask].any()
    for name, weight in one.weights.items():
        torch.testing.assert_close(other.weights[name], weight, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(other.weights[name], weight) for name, weight in one.weights.items()), "it was compiled"

    # Stopped in the middle and resumed it ends where it would have.
    stopped, asked = RunFolder(tmp_path / "stopped"), iter(range(100))
    with pytest.raises(Interrupted):
        train(recipe(True), stopped, CPU, dataset=data, stop=lambda: next(asked) >= 7)
    resume(stopped, CPU, dataset=data)
    assert stopped.last.read_bytes() == compiled.last.read_bytes()


def test_without_a_compiler_nothing_begins_and_the_reason_is_reported(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": "/nowhere/c++", "PATH": "/nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    out = tmp_path / "run"
    command = [sys.executable, "-m", "granet_cli", "train", "--set", "training.compile=true", "--out", str(out)]
    done = subprocess.run(
        [*command, "--device", "cpu"], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "training.compile: torch.compile does not work on this machine" in done.stderr
    assert "g++" in done.stderr
    assert "bug" not in done.stderr
    assert not out.exists()


def test_a_network_that_cannot_be_compiled_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def failing(model: torch.nn.Module) -> object:
        def forward(images: torch.Tensor) -> torch.Tensor:
            raise BackendCompilerFailed(failing, ValueError("no kernel for that"), None)

        return forward

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(
        ModelError, match=r"training.compile: torch.compile cannot do this network; .*no kernel for that"
    ):
        compiling.CompiledNetwork(torch.nn.Linear(2, 2))(torch.zeros(1, 2))


def test_other_errors_of_a_network_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiling.CompiledNetwork(torch.nn.Linear(2, 2))(torch.zeros(1, 3))


def test_the_compiler_is_tried_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def failing(*_: object, **__: object) -> object:
        raise BackendCompilerFailed(failing, ValueError("none here"), None)

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(UsageError, match=r"does not work on this machine; got .*none here"):
        train(recipe(True), RunFolder(tmp_path / "run"), CPU, dataset=arrays_dataset())
    assert not (tmp_path / "run").exists()
