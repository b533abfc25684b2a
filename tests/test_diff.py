"""Two checkpoints of one network: figures counted by hand, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from granet.analysis.checkpoint_diff import ChangedSetting, Difference, InspectedCheckpoint, diff
from granet.checkpoint import Checkpoint, content_hash, save
from granet.errors import UsageError
from granet.recipe import Recipe
from tests.checkpoints import checkpoint
from tests.commandline import Granet


def toy(weights: list[float], mask: str, explored: str | None = None, **parts: object) -> Checkpoint:
    """A network of one masked layer and a bias of 3."""
    on, ever = (torch.tensor([bit == "1" for bit in bits]).view(1, -1) for bits in (mask, explored or mask))
    values: dict[str, object] = {
        "weights": {"fc.weight": torch.tensor([weights]), "fc.bias": torch.tensor([3.0])},
        "masks": {"fc.weight": on},
        "explored": {"fc.weight": ever},
        "buffers": {},
        "optimizer": {},
        "accumulators": {},
    }
    return checkpoint(**{**values, **parts})


def differing(one: Checkpoint, other: Checkpoint) -> Difference:
    return diff(InspectedCheckpoint.of(one, path="a", bytes=1), InspectedCheckpoint.of(other, path="b", bytes=2))


ONE = toy([1.0, -2.0, 2.0, 0.0, 0.0, 0.0], "111000", "111010")
OTHER = toy([-1.0, -2.0, 0.0, 0.0, 0.5, 0.5], "110011")


def test_overlap_matches_counts_by_hand() -> None:
    found = differing(ONE, OTHER).layers["fc.weight"]
    assert (found.parameters, found.active, found.common) == (6, (3, 4), 2)
    assert (found.lost, found.grown, found.regrown, found.moved) == (1, 2, 1, 1)
    assert found.iou == 2 / 5
    assert found.flipped == 1
    assert found.change == pytest.approx((4 + 0 + 4 + 0.25 + 0.25) ** 0.5 / 3)
    assert found.density == (3 / 6, 4 / 6)


def test_zeros_have_no_sign_to_flip() -> None:
    found = differing(toy([0.0, -1.0], "11"), toy([-1.0, 0.0], "11"))
    assert found.total.flipped == 0


def test_all_layers_together_are_counted_not_averaged() -> None:
    found = differing(checkpoint(), checkpoint())
    layers = found.layers.values()
    assert found.total.parameters == sum(layer.parameters for layer in layers) == 92
    assert found.total.common == sum(layer.common for layer in layers)
    assert found.total.iou == 1.0
    assert list(found.layers) == ["conv.weight", "fc.weight"]
    assert found.unmasked.parameters == 5


def test_parameters_without_a_mask_count_apart() -> None:
    other = replace(OTHER, weights={**OTHER.weights, "fc.bias": torch.tensor([4.5])})
    found = differing(ONE, other)
    assert found.unmasked.change == pytest.approx(0.5)
    assert found.total.parameters == 6


def test_a_layer_of_zeros_has_no_relative_change() -> None:
    found = differing(toy([0.0, 0.0], "11"), toy([1.0, 0.0], "11"))
    assert found.total.change is None


def test_a_layer_that_one_does_not_mask_is_active_there() -> None:
    dense = replace(ONE, masks={}, explored={})
    found = differing(dense, OTHER)
    assert found.total.active == (6, 4)
    assert found.notes == ("a has no mask for fc.weight: all of it counts as active",)


def test_settings_that_differ_are_listed() -> None:
    other = replace(OTHER, recipe=Recipe.load("quickstart").override({"seed": 3, "method.density": 0.05}))
    assert differing(ONE, other).settings == (
        ChangedSetting(key="seed", first=0, second=3),
        ChangedSetting(key="method.density", first=0.1, second=0.05),
    )


def test_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"fc.weight: the checkpoints are of different networks; got \(1, 6\) in a"):
        differing(ONE, toy([1.0], "1"))
    more = replace(ONE, weights={**ONE.weights, "head.bias": torch.zeros(2)})
    with pytest.raises(UsageError, match=r"head.bias: .* no such parameter in b"):
        differing(more, ONE)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    save("a.safetensors", checkpoint(metrics={"epochs": [{"validation_accuracy": 0.5}], "test": {"accuracy": 0.25}}))
    save("b.safetensors", checkpoint(step=24))


@pytest.mark.usefixtures("files")
def test_the_command_shows_both_and_every_layer(granet: Granet) -> None:
    answer = granet("diff", "a.safetensors", "b.safetensors")
    assert answer.code == 0
    sides, _, layers = answer.out.partition("\n\n")
    assert "step 12" in sides
    assert "step 24" in sides
    assert "50.00%" in sides
    assert "25.00%" in sides
    assert [line.split()[0] for line in layers.splitlines()] == ["layer", "conv", "fc", "total", "5"]


@pytest.mark.usefixtures("files")
def test_json_is_the_difference(granet: Granet) -> None:
    found = granet("diff", "a.safetensors", "b.safetensors", "--json").json()
    assert not found["same"]
    assert found["first"]["content_hash"] == content_hash("a.safetensors")
    assert found["first"]["accuracy"] == {"validation": 0.5, "best_validation": None, "test": 0.25}
    assert found["total"]["iou"] == 1.0
    assert [layer["name"] for layer in found["layers"]] == ["conv.weight", "fc.weight"]
    assert {"lost", "grown", "moved", "regrown", "flipped", "change", "density", "active"} <= found["total"].keys()
    assert granet("diff", "a.safetensors", "a.safetensors", "--json").json()["same"]
    assert "bit for bit" in granet("diff", "a.safetensors", "a.safetensors").out


@pytest.mark.usefixtures("files")
def test_a_file_that_is_not_a_checkpoint_is_an_error(granet: Granet) -> None:
    Path("c.safetensors").write_bytes(Path("a.safetensors").read_bytes()[:-1])
    for second, message in (("c.safetensors", "damaged"), ("nowhere", "cannot be read"), (".", "a folder")):
        answer = granet("diff", "a.safetensors", second)
        assert (answer.code, answer.out) == (1, "")
        assert message in answer.err
    assert granet("diff", "a.safetensors", "b.safetensors", "--model", "my.code:network").code == 2


@pytest.mark.parametrize("value", [True, 1e300, "0.5", None])
def test_an_accuracy_that_no_run_notes_is_unknown(value: object, granet: Granet, tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    save(file, checkpoint(metrics={"epochs": [{"validation_accuracy": value}]}))
    assert granet("diff", file, file, "--json").json()["first"]["accuracy"]["validation"] is None
