"""State outside parameters and buffers is part of a run, or refused before it begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from exporters.dense import write_dense
from granet import checkpoint, models
from granet.checkpoint import extra_state, header
from granet.errors import CheckpointError, Interrupted, ModelError
from granet.models import extra_state as of_modules
from granet.recipe import Recipe
from granet.rewinding.start_state import masked
from granet.training import RunFolder, resume, train
from tests import checkpoints, stateful_networks
from tests.independent_reader import read
from tests.synthetic import arrays_dataset

CPU = torch.device("cpu")
DATASET = arrays_dataset(train=48)
KEPT = ["Rounded", "Nested", "Transient", "Appearing", "Growing"]


def recipe(network: str) -> Recipe:
    return Recipe.from_toml(
        f"""
        name = "stateful"
        model.name = "tests.stateful_networks:{network}"
        data.name = "fashion-mnist-subset"
        method = {{name = "granet", density = 0.2, interval = "2it", end = "8it"}}
        optimizer = {{name = "sgd", learning_rate = 0.02}}
        schedule.name = "constant"
        training = {{epochs = 2, batch_size = 12}}
        """,
        where="test",
    )


def after(steps: int) -> Callable[[], bool]:
    asked = iter(range(steps + 1))
    return lambda: next(asked, steps) == steps


@pytest.mark.parametrize("network", KEPT)
def test_a_resumed_run_is_the_same_to_the_byte_and_its_network_computes_the_same(network: str, tmp_path: Path) -> None:
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    train(recipe(network), whole, CPU, dataset=DATASET)
    with pytest.raises(Interrupted):
        train(recipe(network), stopped, CPU, dataset=DATASET, stop=after(6))
    resume(stopped, CPU, dataset=DATASET)
    assert whole.last.read_bytes() == stopped.last.read_bytes()
    state = checkpoint.load(whole.last)
    model = models.from_checkpoint(state, factory=state.network.name)
    assert isinstance(model, stateful_networks.Decaying)
    assert float(torch.as_tensor(model.now())) == pytest.approx(0.9 ** (7 if network == "Appearing" else 8))
    fields, tensors = read(whole.last)
    assert fields["version"] == [2, 0]
    assert [key for key in tensors if key.startswith("extra/")]
    assert masked(state, state.masks).extra_state.keys() == state.extra_state.keys()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            "OfASet",
            r"_extra_state\['ones'\]\[0\]: the extra state of a module cannot be stored; got set; expected None",
        ),
        (
            "OfAParametersShape",
            r"_extra_state: the extra state of a module cannot be stored; got torch\.float32, .*sparse",
        ),
        ("OnlyReturning", "_extra_state: set_extra_state of a module does not take what get_extra_state returned"),
        ("Forgetting", "_extra_state: the extra state of a module does not come back"),
        ("Failing", "_extra_state: get_extra_state of a module fails; got KeyError: 'factor'"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_training(network: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        train(recipe(network), RunFolder(tmp_path / "run"), CPU, dataset=DATASET)
    assert not (tmp_path / "run").exists()


def test_files_without_extra_state_stay_of_version_1(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "file", checkpoints.checkpoint())
    assert read(tmp_path / "file")[0]["version"] == [1, 0]


VALUES: dict[str, Any] = {
    "numbers": [1, -2, True, None, 0.5, float("inf"), float("-inf"), "text", ""],
    "containers": ({}, [], (), {"a": {"b": [(1,)]}, 3: None, 2.5: 1, None: 2, float("inf"): 3}),
    "tensors": {
        "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
        "scalar": torch.tensor(True),
        "empty": torch.empty(0, 2),
    },
    "bytes": [b"", b"\x80\x04."],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_come_back_as_they_went(value: Any, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "file", checkpoints.checkpoint(extra_state={"layer._extra_state": value}))
    again = checkpoint.load(tmp_path / "file").extra_state["layer._extra_state"]
    assert extra_state.identical(value, again)
    assert type(again) is type(value)
    assert checkpoint.load_weights(tmp_path / "file")["layer._extra_state"] is not None
    checkpoint.load_outline(tmp_path / "file")
    assert checkpoint.verify(tmp_path / "file").ok or value is VALUES["numbers"]


REFUSED: list[Any] = [
    [1],
    {},
    {"list": 1},
    {"pickle": 0},
    {"tensor": 1},
    {"tensor": -1},
    {"float": "1.0"},
    {"dict": [[1]]},
    {"dict": [[{"list": []}, 1]]},
    {"list": [], "tuple": []},
    {"list": [{"tensor": 0}, {"tensor": 0}]},
]


@pytest.mark.parametrize("node", REFUSED, ids=json.dumps)
def test_json_that_no_value_has_is_refused(node: Any) -> None:
    text = header.render({**_fields(), "extra_state": {"m._extra_state": 1}})
    with pytest.raises(CheckpointError):
        header.parse(json.dumps({**json.loads(text), "extra_state": {"m._extra_state": node}}), where="file")


def test_version_2_without_extra_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="version 2 without extra state"):
        header.render({**_fields(), "extra_state": {}})


def _fields() -> dict[str, Any]:
    network = {"name": "n", "in_channels": 1, "classes": ["a"], "image_size": 4, "mean": [0.5], "std": [0.5]}
    lists: dict[str, Any] = {"weights": [], "buffers": [], "accumulators": []}
    objects: dict[str, Any] = {
        "recipe": {},
        "progress": {},
        "metrics": {},
        "masks": {},
        "explored": {},
        "optimizer": {},
    }
    return {"step": 0, "network": network, **lists, **objects}


def test_a_checkpoint_that_lacks_the_state_of_a_module_is_refused() -> None:
    model = stateful_networks.Rounded()
    with pytest.raises(ModelError, match="_extra_state: the checkpoint lacks the extra state of a module"):
        of_modules.load(model, {})
    with pytest.raises(
        ModelError, match=r"x\._extra_state: the checkpoint has extra state of a module that the network"
    ):
        of_modules.load(model, {"_extra_state": torch.tensor(1.0), "x._extra_state": 1})
    with pytest.raises(ModelError, match=r"conv\.cache: the network has no such buffer"):
        of_modules.load(model, {"_extra_state": torch.tensor(1.0), "conv.cache": torch.ones(1)})


def test_weights_to_start_from_bring_the_extra_state_or_say_that_they_do_not(tmp_path: Path) -> None:
    trained = stateful_networks.Rounded(classes=len(DATASET.classes))
    trained.factor = 0.5
    file = tmp_path / "weights.safetensors"
    for lacking in (False, True):
        state = {key: value for key, value in trained.state_dict().items() if not (lacking and key == "_extra_state")}
        safetensors.torch.save_file(state, file)
        folder = RunFolder(tmp_path / f"run {lacking}")
        asked = recipe("Rounded").override({"model.weights": str(file)})
        train(asked, folder, CPU, dataset=DATASET)
        last = checkpoint.load(folder.last)
        assert float(last.extra_state["_extra_state"]) == pytest.approx((1 if lacking else 0.5) * 0.9**8)
        told = "left the extra state of modules as it was, not being in the file: _extra_state"
        assert (told in last.metrics["start"]["remarks"]) == lacking


def test_a_dense_file_has_extra_state_that_is_a_tensor(tmp_path: Path) -> None:
    state = checkpoints.checkpoint(extra_state={"a._extra_state": torch.ones(2), "b._extra_state": {"k": 1}})
    write_dense(state, tmp_path / "dense")
    assert "a._extra_state" in safetensors.torch.load_file(tmp_path / "dense")
