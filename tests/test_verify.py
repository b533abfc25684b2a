"""``granet verify``: sound files, damaged ones, and files that are not checkpoints, side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from granet import models
from granet.checkpoint import Checkpoint, Network, save
from granet.recipe import Recipe
from granet_cli.app import run


def checkpoint(**changes: Any) -> Checkpoint:
    """The end of a run that left half of the first layer's weights."""
    model = models.build("lenet-300-100", in_channels=1, classes=2, image_size=2)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items() if weight.ndim > 1}
    masks["fc1.weight"][:150] = False
    weights["fc1.weight"][:150] = 0.0
    total, active = (sum(int(f(mask)) for mask in masks.values()) for f in (torch.numel, torch.count_nonzero))
    recipe = Recipe.load("quickstart").with_method("static", density=active / total)[0]
    fields: dict[str, Any] = {
        "weights": weights,
        "masks": masks,
        "buffers": {},
        "explored": {name: mask.clone() for name, mask in masks.items()},
        "optimizer": {},
        "accumulators": {},
        "recipe": recipe,
        "step": 30,
        "network": Network(
            name="lenet-300-100", in_channels=1, classes=("a", "b"), image_size=2, mean=(0.5,), std=(0.5,)
        ),
        "progress": {"steps_per_epoch": 10},
        "metrics": {},
    }
    return Checkpoint(**fields | changes)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save("good.safetensors", checkpoint())
    data = bytearray(Path("good.safetensors").read_bytes())
    data[-1] ^= 1
    Path("flipped.safetensors").write_bytes(data)
    Path("cut.safetensors").write_bytes(data[: len(data) // 2])
    Path("notes.txt").write_text("no checkpoint")
    return tmp_path


@pytest.mark.usefixtures("here")
def test_a_sound_file_takes_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "good.safetensors"]) == 0
    out, err = capfd.readouterr()
    assert out == "good.safetensors: sound, 7 tensors, step 30, 30,800 of 31,400 weights active\n"
    assert err == ""


@pytest.mark.usefixtures("here")
def test_a_damaged_tensor_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "flipped.safetensors"]) == 1
    first, second = capfd.readouterr().out.splitlines()
    assert first.startswith("flipped.safetensors: 1 failure")
    assert "tensor 'masks/fc1.weight'" in second


@pytest.mark.usefixtures("here")
def test_every_file_is_verified_whatever_is_wrong_with_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    names = ["nowhere", ".", "pipe", "notes.txt", "cut.safetensors", "flipped.safetensors", "good.safetensors"]
    assert run(["verify", *names]) == 1
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if not line.startswith("  ")]
    assert [line.partition(":")[0] for line in lines] == names
    assert ["sound" in line for line in lines] == [False] * 6 + [True]
    assert "Traceback" not in out + err


@pytest.mark.usefixtures("here")
def test_the_report_is_also_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "good.safetensors", "flipped.safetensors", "nowhere", "--json"]) == 1
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert err == ""
    assert (report["ok"], [file["ok"] for file in report["files"]]) == (False, [True, False, False])
    assert report["files"][0]["step"] == 30
    assert report["files"][1]["failures"][0]["part"] == "masks/fc1.weight"
    assert report["files"][2]["failures"] == [
        {"part": "file", "message": "nowhere: the file cannot be read; got No such file or directory; expected a file"}
    ]
    assert run(["verify", "good.safetensors", "--json"]) == 0


@pytest.mark.usefixtures("here")
def test_a_wrong_number_of_active_weights_and_values_that_are_not_finite_are_failures(
    capfd: pytest.CaptureFixture[str],
) -> None:
    weights = checkpoint().weights
    weights["fc2.bias"][0] = torch.nan
    save("odd.safetensors", checkpoint(weights=weights, recipe=checkpoint().recipe.override({"method.density": 0.5})))
    assert run(["verify", "odd.safetensors"]) == 1
    out = capfd.readouterr().out
    assert "odd.safetensors: 2 failures" in out
    assert "tensor 'weights/fc2.bias': values that are not finite; got 1 of 100" in out
    assert "the number of active weights is not that of the recipe" in out


@pytest.mark.usefixtures("here")
def test_names_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "\x1b[2J"]) == 1
    assert "\x1b" not in capfd.readouterr().out


def test_a_file_is_needed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify"]) == 2
    assert "FILE" in capfd.readouterr().err
