"""Verification: every fault of a file is listed, each with its part, and what could not be checked is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fuzz.forgery import Parts, edited, take_apart
from granet.checkpoint import Checkpoint, Verification, content_hash, save, verify
from granet.errors import FileError
from granet.recipe import Recipe
from tests.checkpoints import checkpoint, encoded

RECIPE = Recipe.from_toml(
    """
    name = "test"
    model.name = "resnet8"
    data.name = "fashion-mnist-subset"
    method = {name = "gmp", density = 0.5, end = "2ep", interval = "1ep"}
    optimizer = {name = "sgd", learning_rate = 0.1}
    schedule.name = "constant"
    training = {epochs = 3, batch_size = 64}
    """,
    where="test",
)


def settled(active: int, step: int = 20) -> Checkpoint:
    """A state of that recipe, of ten steps an epoch, with so many of 100 weights active."""
    mask = torch.arange(100) < active
    return checkpoint(
        weights={"w": torch.ones(100).where(mask, 0.0)},
        masks={"w": mask},
        explored={"w": torch.ones(100).bool()},
        optimizer={},
        accumulators={},
        recipe=RECIPE,
        step=step,
        progress={"steps_per_epoch": 10},
    )


def verified(data: bytes, tmp_path: Path) -> Verification:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    return verify(path)


def flipped(data: bytes, *tensors: str) -> bytes:
    """The file with the last bit of some tensors flipped."""
    for tensor in tensors:
        content = take_apart(data).tensors[tensor].data
        data = data.replace(content, content[:-1] + bytes([content[-1] ^ 1]), 1)
    return data


def test_a_sound_file(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", settled(50))
    found = verify(tmp_path / "a.safetensors")
    assert (found.ok, found.failures, found.notes) == (True, (), ())
    assert (found.step, found.parameters, found.active, found.tensors) == (20, 100, 50, 4)
    assert found.bytes == (tmp_path / "a.safetensors").stat().st_size
    assert found.content_hash == content_hash(tmp_path / "a.safetensors")
    assert found.as_json()["ok"] is True


def test_every_damaged_tensor_is_named(tmp_path: Path) -> None:
    data = flipped(encoded(checkpoint()), "weights/conv.weight", "masks/conv.weight", "buffers/norm.running_mean")
    found = verified(data, tmp_path)
    assert {failure.part for failure in found.failures} == {
        "weights/conv.weight",
        "masks/conv.weight",
        "buffers/norm.running_mean",
    }
    assert all("is damaged" in failure.message for failure in found.failures)
    assert not found.ok


def test_a_damaged_header_is_the_only_failure_reported(tmp_path: Path) -> None:
    found = verified(encoded(checkpoint()).replace(b"coat", b"goat"), tmp_path)
    assert [failure.part for failure in found.failures] == ["header"]
    assert (found.content_hash, found.step, found.tensors) == (None, None, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_values_that_are_not_finite_are_counted(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    if dtype == torch.float8_e4m3fn and value == value:
        pytest.skip("this type has no infinities")
    finite = torch.tensor([0.0, -0.0, 1.0, -448.0]).to(dtype)
    odd = torch.cat([finite.float(), torch.tensor([value])]).to(dtype)
    found = verified(encoded(checkpoint(buffers={"odd": odd, "even": finite})), tmp_path)
    assert [failure.part for failure in found.failures] == ["buffers/odd"]
    assert "not finite; got 1 of 5" in found.failures[0].message


def set_field(*path: str, to: object) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        fields: Any = parts.fields
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = to

    return change


def test_what_forged_hashes_do_not_hide(tmp_path: Path) -> None:
    def change(parts: Parts) -> None:
        parts.fields["masks"]["conv.weight"]["count"] = 17
        parts.tensors["weights/conv.weight"].data = parts.tensors["weights/conv.weight"].data[:-4]
        parts.tensors["weights/conv.weight"].shape = [17]
        parts.tensors["optimizer/momentum_buffer/conv.weight"].data = bytes(4 * 17)
        parts.tensors["optimizer/momentum_buffer/conv.weight"].shape = [17]
        parts.fields["recipe"]["method"]["density"] = 7

    found = verified(edited(encoded(checkpoint()), change), tmp_path)
    assert [failure.part for failure in found.failures] == ["masks/conv.weight", "recipe"]
    assert "got 18; expected 17" in found.failures[0].message


def test_an_explored_set_without_an_active_weight(tmp_path: Path) -> None:
    def change(parts: Parts) -> None:
        tensor = parts.tensors["explored/conv.weight"]
        tensor.data = bytes(byte & 0b11101110 | 0b01000010 for byte in tensor.data)
        count = sum(byte.bit_count() for byte in tensor.data)
        parts.fields["explored"]["conv.weight"].update(encoding="bitmask", count=count)

    found = verified(edited(encoded(checkpoint()), change), tmp_path)
    assert [failure.part for failure in found.failures] == ["explored/conv.weight"]
    assert "missing from the explored set" in found.failures[0].message


@pytest.mark.parametrize(("active", "step", "part"), [(50, 20, None), (51, 20, "budget"), (49, 30, "budget")])
def test_the_budget_is_that_of_the_recipe(tmp_path: Path, active: int, step: int, part: str | None) -> None:
    found = verified(encoded(settled(active, step)), tmp_path)
    assert [failure.part for failure in found.failures] == ([part] if part else [])
    assert found.notes == ()
    if part:
        assert f"got {active}; expected 50, density 0.5 of 100" in found.failures[0].message


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (settled(80, step=19), "the method has not reached its final density yet"),
        (dataclasses.replace(settled(80), progress={}), "does not say how many steps an epoch has"),
        (checkpoint(masks={}, explored={}, accumulators={}), "there are no masks"),
    ],
)
def test_verification_notes_what_could_not_be_checked(tmp_path: Path, value: Checkpoint, note: str) -> None:
    found = verified(encoded(value), tmp_path)
    assert found.ok
    assert note in found.notes[0]


def test_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        verify(tmp_path / "absent")
