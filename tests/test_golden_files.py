"""Files that released versions wrote open for ever, and give what they gave then.

``tests/golden/build.py`` says how they were made. Only what users meet is used here: the command line, the doors of
``granet``, ONNX Runtime.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file

from granet import load_weights
from tests.commandline import Granet
from tests.golden import build

VERSIONS = sorted(file.parent for file in build.FOLDER.glob("*/expected.json"))
FUNCTIONS = {
    *(f"{layout}{suffix}" for layout in ("Gaps8Steps", "Gaps8", "Gaps4", "Gaps4Packed", "Bitmask")
      for suffix in ("", "Fp16", "Int8", "Half", "Int8Half")),
    *("DenseFp16", "DenseInt8", "DenseInt8Half"),
}  # fmt: skip
"""Every decoder in docs/onnx-encodings.md; the other two dense ones would be plain weights."""


class Golden(NamedTuple):
    """A file or folder in the folder of a version, and what that version found in it."""

    folder: Path
    name: str
    expected: Any

    @property
    def path(self) -> Path:
        return self.folder / self.name


@functools.cache
def expected(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((folder / "expected.json").read_text())
    return found


def every(kind: str) -> pytest.MarkDecorator:
    """Runs a test for each of them in all versions."""
    found = [
        pytest.param(Golden(folder, name, entry), id=f"{folder.name}/{name}")
        for folder in VERSIONS
        for name, entry in expected(folder).get(kind, {}).items()
    ]
    return pytest.mark.parametrize("golden", found)


def assert_told(now: Any, then: Any, where: str = "") -> None:
    """Everything that was told then is told now; there may be more fields of which nobody knew then."""
    if isinstance(then, dict):
        for key, value in then.items():
            assert key in now, f"{where}.{key}"
            assert_told(now[key], value, f"{where}.{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for index, (mine, theirs) in enumerate(zip(now, then, strict=True)):
            assert_told(mine, theirs, f"{where}[{index}]")
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-9, nan_ok=True), where
    else:
        assert now == then, where


# The files themselves


def test_there_are_golden_files() -> None:
    assert [folder.name for folder in VERSIONS][:1] == ["v1"]


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_no_golden_file_was_changed_added_or_taken_away(folder: Path) -> None:
    there = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    del there["expected.json"]
    found = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in there.items()}
    assert found == expected(folder)["files"]


def test_every_kind_is_among_them() -> None:
    told = [entry["told"] for folder in VERSIONS for entry in expected(folder)["checkpoints"].values()]
    states = [entry["state"] for folder in VERSIONS for entry in expected(folder)["checkpoints"].values()]
    assert {entry["method"] for entry in told} >= {"granet", "rigl", "set", "snfs"}
    assert any(entry["lineage"] for entry in told)
    assert any(entry["imported"] for entry in told)
    assert any(state["accumulators"] for state in states)
    slots = {slot for state in states for slots in state["optimizer"].values() for slot in slots}
    assert slots >= {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}
    files = [folder / name for folder in VERSIONS for name in expected(folder)["onnx"]]
    nodes = [node for file in files for node in onnx.load(file).graph.node]
    assert {node.op_type for node in nodes if node.domain == "ai.granet"} >= FUNCTIONS


# Checkpoints


@every("checkpoints")
def test_a_checkpoint_gives_the_same_state(golden: Golden) -> None:
    state = build.state(golden.path)
    assert_told(state, golden.expected["state"])
    for part in ("weights", "masks", "buffers", "explored", "accumulators", "optimizer"):
        assert state[part] == golden.expected["state"][part]


@every("checkpoints")
def test_the_weights_of_a_checkpoint_can_be_loaded_alone(golden: Golden) -> None:
    found = build.digests(load_weights(golden.path))
    then = golden.expected["state"]
    assert found == then["weights"] | then["buffers"]


@every("checkpoints")
def test_inspecting_a_checkpoint_tells_the_same(granet: Granet, golden: Golden) -> None:
    answer = granet("inspect", golden.path, "--model", build.network_of(golden.path), "--json")
    assert answer.code == 0, answer.err
    assert_told(answer.json(), golden.expected["told"])


def test_all_checkpoints_verify(granet: Granet) -> None:
    files = [folder / name for folder in VERSIONS for name in expected(folder)["checkpoints"]]
    answer = granet("verify", *files, "--json")
    assert answer.code == 0, answer.out
    assert answer.json()["ok"]


@every("evaluated")
def test_a_checkpoint_does_as_well_on_its_images(granet: Granet, golden: Golden) -> None:
    answer = granet("eval", golden.path, "--device", "cpu", "--model", build.network_of(golden.path), "--json")
    assert answer.code == 0, answer.err
    found, then = answer.json(), dict(golden.expected)
    assert found["accuracy"] == pytest.approx(then.pop("accuracy"), abs=0.002)  # 4 of 2,000 images
    assert found["loss"] == pytest.approx(then.pop("loss"), rel=1e-4)
    assert_told(found, then)


# Runs


@every("histories")
def test_a_history_tells_the_same(granet: Granet, golden: Golden) -> None:
    answer = granet("history", golden.path, "--verify", "--json")
    assert answer.code == 0, answer.out
    assert_told(answer.json(), golden.expected["told"])


@every("histories")
def test_a_history_is_replayed_to_the_same_masks_at_every_update(golden: Golden, tmp_path: Path) -> None:
    told, masks = golden.expected["told"], golden.expected["masks"]
    assert sorted(map(int, masks)) == [told["before"]["step"], *(update["step"] for update in told["updates"])]
    for step, layers in masks.items():
        assert build.masks_at(golden.path, int(step), tmp_path) == layers, step


@every("histories")
def test_the_masks_of_a_history_are_those_of_the_checkpoints_of_its_run(golden: Golden) -> None:
    """Both were compared with what was recorded; this compares what was recorded."""
    then, compared = expected(golden.folder)["checkpoints"], 0
    for name, entry in then.items():
        known = [step for step in map(int, golden.expected["masks"]) if step <= entry["state"]["step"]]
        if Path(name).parent == Path(golden.name) and known:
            masks = {layer: mask.split()[-1] for layer, mask in entry["state"]["masks"].items()}
            assert golden.expected["masks"][str(max(known))] == masks, name
            compared += 1
    assert compared >= 2


def test_a_stopped_run_goes_on(granet: Granet, tmp_path: Path) -> None:
    folder, name = build.FOLDER / "v1", "runs/snfs-stopped"
    then = expected(folder)["histories"][name]
    shutil.copytree(folder / name, tmp_path / "run")
    answer = granet("train", "--resume", tmp_path / "run", "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    answer = granet("history", tmp_path / "run", "--verify", "--json")
    assert answer.code == 0, answer.out
    told = answer.json()
    assert (told["finished"], told["step"]) == (True, then["told"]["total_steps"])
    assert_told(told["updates"][: len(then["told"]["updates"])], then["told"]["updates"])
    assert len(told["updates"]) > len(then["told"]["updates"])


def test_finished_rounds_of_a_rewind_are_known_as_such(granet: Granet, tmp_path: Path) -> None:
    folder = build.FOLDER / "v1/runs/granet-rewound"
    shutil.copytree(folder, tmp_path / "rounds")
    answer = granet("rewind", "--resume", tmp_path / "rounds", "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    assert_told(answer.json()["rounds"], json.loads((folder / "rounds.json").read_text()))
    for file in folder.rglob("last.safetensors"):
        assert (tmp_path / "rounds" / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_runs_can_be_compared(granet: Granet) -> None:
    folder = build.FOLDER / "v1"
    answer = granet("compare", folder / "runs", "--json")
    assert answer.code == 0, answer.err
    assert {Path(run["path"]) for run in answer.json()["runs"]} == {
        folder / name for name in expected(folder)["histories"]
    }


# Files for other programs


@every("onnx")
def test_inspecting_an_onnx_file_tells_the_same(granet: Granet, golden: Golden) -> None:
    answer = granet("inspect", golden.path, "--json")
    assert answer.code == 0, answer.err
    assert_told(answer.json(), golden.expected["told"])


@every("onnx")
def test_inflating_an_onnx_file_gives_the_same_weights(golden: Golden, tmp_path: Path) -> None:
    assert build.inflated(golden.path, tmp_path) == golden.expected["weights"]


@every("onnx")
def test_onnx_runtime_answers_the_same(golden: Golden) -> None:
    exact = golden.expected["told"]["metadata"]["weights"]["compute"] == "fp32"
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if exact else {"rtol": 0.02, "atol": 0.02}
    assert_allclose(build.logits(golden.path), golden.expected["logits"], **tolerance)


def test_an_onnx_file_does_as_well_on_its_images_as_its_checkpoint(granet: Granet) -> None:
    folder = build.FOLDER / "v1"
    (then,) = expected(folder)["evaluated"].values()
    answer = granet("eval", folder / "onnx/auto-fp32.onnx", "--json")
    assert answer.code == 0, answer.err
    assert answer.json()["accuracy"] == pytest.approx(then["accuracy"], abs=0.002)


@every("compacted")
def test_a_compacted_network_answers_the_same(golden: Golden) -> None:
    assert build.digests(load_file(golden.path)) == golden.expected["tensors"]
    assert_allclose(build.compacted_logits(golden.path), golden.expected["logits"], rtol=1e-4, atol=1e-4)


def test_the_recorded_answers_of_exported_files_are_those_of_their_checkpoint() -> None:
    from tests.golden.networks import golden as network

    folder = build.FOLDER / "v1"
    checkpoint = folder / "runs/granet/best.safetensors"
    model = network(1, 10).eval()
    model.load_state_dict(load_weights(checkpoint))
    with torch.no_grad():
        answers = model(torch.from_numpy(build.images())).tolist()
    then = expected(folder)
    for name, entry in then["onnx"].items():
        if entry["told"]["metadata"]["weights"]["precision"] == "fp32" and "wide" not in name:
            assert_allclose(entry["logits"], answers, rtol=1e-3, atol=1e-3)
    assert_allclose(then["compacted"]["compacted.safetensors"]["logits"], answers, rtol=1e-3, atol=1e-3)
