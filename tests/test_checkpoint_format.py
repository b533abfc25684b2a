"""The bytes of the format: pinned by golden files, readable by others, and with room for the largest tensors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fuzz.forgery import split, take_apart
from granet.checkpoint import Checkpoint, container, content_hash, load, load_outline, save
from granet.errors import CheckpointError
from tests import independent_reader
from tests.checkpoints import assert_same, assert_same_tensors, bits, encoded
from tests.golden_checkpoints.build import FOLDER, GOLDEN

PATHS = {name: FOLDER / f"{name}.safetensors" for name in GOLDEN}


def with_recipe_of(golden: bytes, value: Checkpoint) -> Checkpoint:
    """``value`` with the recipe as it was then: what settings a recipe has is not the format's business."""
    recipe = take_apart(golden).fields["recipe"]
    return dataclasses.replace(value, recipe=SimpleNamespace(as_dict=lambda: recipe))


@pytest.mark.parametrize("name", GOLDEN)
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    golden = PATHS[name].read_bytes()
    assert encoded(with_recipe_of(golden, GOLDEN[name]())) == golden


@pytest.mark.parametrize("name", GOLDEN)
def test_decoding_the_golden_bytes_gives_the_value(name: str) -> None:
    assert_same(load(PATHS[name]), GOLDEN[name]())


def test_the_golden_files_have_every_encoding_and_dtype() -> None:
    parts = [take_apart(path.read_bytes()) for path in PATHS.values()]
    used = {mask["encoding"] for part in parts for mask in part.fields["masks"].values()}
    assert used == {"dense", "bitmask", "gaps8", "gaps4"}
    assert {tensor.dtype for part in parts for tensor in part.tensors.values()} == set(container.DTYPES)


@pytest.mark.parametrize("name", GOLDEN)
def test_another_program_can_read_it_from_its_specification_alone(name: str) -> None:
    fields, arrays = independent_reader.read(PATHS[name])
    value = load(PATHS[name])
    assert (fields["step"], fields["metrics"]) == (value.step, value.metrics)
    assert fields["weights"] == list(value.weights)
    expected: dict[str, Any] = {}
    for part in ("weights", "masks", "explored", "buffers", "accumulators"):
        expected |= {f"{part}/{key}": tensor for key, tensor in getattr(value, part).items()}
    for key, slots in value.optimizer.items():
        tensors = {slot: slot_value for slot, slot_value in slots.items() if isinstance(slot_value, torch.Tensor)}
        expected |= {f"optimizer/{slot}/{key}": tensor for slot, tensor in tensors.items()}
        numbers = {slot: slot_value for slot, slot_value in slots.items() if slot not in tensors}
        assert {slot: fields["optimizer"][key][slot] for slot in numbers} == numbers
    assert arrays.keys() == expected.keys()
    for key, tensor in expected.items():
        assert arrays[key].shape == tensor.shape, key
        assert arrays[key].tobytes() == bits(tensor).numpy().tobytes(), key


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_a_checkpoint_is_a_safetensors_file(path: Any) -> None:
    assert_same_tensors(
        {name: tensor for name, tensor in load_file(path).items() if name.startswith("buffers/")},
        {f"buffers/{name}": tensor for name, tensor in load(path).buffers.items()},
    )


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_every_tensor_lies_at_a_multiple_of_its_element(path: Any) -> None:
    header, body = split(path.read_bytes())
    assert (path.stat().st_size - len(body)) % 8 == 0
    for name, tensor in load_file(path).items():
        assert header[name]["data_offsets"][0] % tensor.itemsize == 0


def test_hashes_are_those_of_sha256sum() -> None:
    path = PATHS["sgd"]
    header, body = split(path.read_bytes())
    begin, end = header["weights/nibbles"]["data_offsets"]
    row = list(header).index("weights/nibbles") - 2  # behind __metadata__ and hashes
    assert body[32 * row : 32 * row + 32] == hashlib.sha256(body[begin:end]).digest()


def test_the_content_hash_names_the_state(tmp_path: Any) -> None:
    value = GOLDEN["adam"]()
    save(tmp_path / "a.safetensors", value)
    save(tmp_path / "b.safetensors", dataclasses.replace(value, step=10))
    value.weights["a"][0, 1] += 1
    save(tmp_path / "c.safetensors", value)
    hashes = [content_hash(tmp_path / f"{name}.safetensors") for name in "abc"]
    assert len(set(hashes)) == 3
    save(tmp_path / "d.safetensors", load(tmp_path / "c.safetensors"))
    assert content_hash(tmp_path / "d.safetensors") == hashes[2]
    assert json.dumps(hashes[0]).encode() in (tmp_path / "a.safetensors").read_bytes()[:110]


@pytest.mark.parametrize("read", [load, load_outline])
def test_a_loaded_checkpoint_carries_the_hash_of_the_bytes_it_was_read_from(tmp_path: Path, read: Any) -> None:
    path, value = tmp_path / "last.safetensors", GOLDEN["adam"]()
    save(path, value)
    before = content_hash(path)
    loaded = read(path)
    save(path, dataclasses.replace(value, step=value.step + 1))  # as a run does while its folder is being read
    assert loaded.content_hash == before != content_hash(path)


def test_a_checkpoint_that_is_not_what_a_file_holds_has_no_content_hash(tmp_path: Path) -> None:
    value = GOLDEN["adam"]()
    save(tmp_path / "a.safetensors", value)
    for changed in (value, dataclasses.replace(load(tmp_path / "a.safetensors"), step=1)):
        with pytest.raises(CheckpointError, match="not loaded from a file has no content hash"):
            changed.content_hash  # noqa: B018


def test_offsets_of_more_than_32_bits() -> None:
    shapes = {"a": (torch.float64, (2**31, 3)), "b": (torch.float32, (2**33,)), "c": (torch.uint8, (5,))}
    layout = container.lay_out(shapes, {"key": "text"})
    start = len(layout.header)
    assert layout.places["a"] == slice(start, start + 3 * 2**34)
    assert layout.places["b"] == slice(start + 3 * 2**34, start + 5 * 2**34)
    assert layout.size == start + 5 * 2**34 + 5
    assert json.loads(layout.header[8:])["b"]["data_offsets"] == [3 * 2**34, 5 * 2**34]
    assert np.uint64(layout.size) == layout.size
