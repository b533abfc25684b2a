"""Hostile and broken files: the checkpoint error, soon and without much memory, whatever is in them."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fuzz.forgery import Parts, Tensor, edited, joined, take_apart
from granet.checkpoint import content_hash, load, load_outline, load_weights
from granet.errors import CheckpointError
from tests.checkpoints import assert_same, checkpoint, encoded


@pytest.fixture(scope="module")
def sound() -> bytes:
    torch.manual_seed(0)
    return encoded(checkpoint())


def refused(data: bytes, tmp_path: Path) -> str:
    """The message with which ``load`` refuses the file."""
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as failure:
        load(path)
    assert failure.value.exit_code == 1
    assert "hostile.safetensors" in str(failure.value)
    assert len(str(failure.value)) < 1000
    return str(failure.value)


def test_an_empty_file(tmp_path: Path) -> None:
    assert "the file is empty" in refused(b"", tmp_path)


def test_a_file_cut_off_anywhere(tmp_path: Path, sound: bytes) -> None:
    for length in {*range(1, len(sound), 97), 7, 8, 9, len(sound) - 1}:
        refused(sound[:length], tmp_path)
    assert "cut off" in refused(sound[:-1], tmp_path)


def test_a_file_with_something_behind_its_end(tmp_path: Path, sound: bytes) -> None:
    assert "after its end" in refused(sound + b"\0", tmp_path)


def test_a_safetensors_file_that_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    save_file({"conv.weight": torch.ones(3)}, path)
    assert "a safetensors file, but not a granet checkpoint" in refused(path.read_bytes(), tmp_path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "pickle")
    assert "not a safetensors file" in refused((tmp_path / "pickle").read_bytes(), tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 3) + b"{}", "not a safetensors file"),
        (joined(b"[]"), "not a safetensors file"),
        (joined(b"{]"), "not sound JSON"),
        (joined(b'{"\xff":1}'), "not sound JSON"),
        (joined(b'{"a":1,"a":1}'), "duplicate keys"),
        (joined(b'{"a":' + b"[" * 100_000), "not sound JSON"),
        (joined(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"), "nested deeper"),
        (joined(b'{"a":NaN}'), "not finite"),
        (joined(b'{"a":1e999}'), "not finite"),
        (joined(b'{"a":' + b"9" * 5000 + b"}"), "not sound JSON"),
        (joined({"__metadata__": 1}), "expected an object"),
        (joined({"__metadata__": {"granet": 1}}), "metadata must be text; got int"),
        (joined({"__metadata__": {"granet": "{}"}}), "does not begin with the hashes"),
        (joined({"t": 1}), "expected an object"),
        (joined({"t": {"dtype": "F32", "shape": []}}), "a header field is missing"),
        (joined({"t": {"dtype": "F31", "shape": [], "data_offsets": [0, 4]}}, b"1234"), "expected one of F64"),
        (joined({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"), "the shape of a tensor"),
        (joined({"t": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"), "the shape of a"),
        (joined({"t": {"dtype": "U8", "shape": [2**62, 4], "data_offsets": [0, 0]}}), "the shape of a tensor"),
        (joined({"t": {"dtype": "U8", "shape": [0, 2**63], "data_offsets": [0, 0]}}), "the shape of a tensor"),
        (joined({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "does not fit its shape"),
        (joined({"t": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}}, b"1234"), "not where it must be"),
        (joined({"t": {"dtype": "U8", "shape": [4], "data_offsets": [1, 5]}}, b"12345"), "not where it must be"),
        (
            joined(
                {
                    "t": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                    "u": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
                },
                b"123456",
            ),
            "not where it must be",
        ),
    ],
)
def test_a_container_that_lies(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refused(data, tmp_path)


def set_in(*path: str | int, to: object) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        fields: Any = parts.fields
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("format", to="other"), "not that of a granet checkpoint"),
        (set_in("version", to=[3, 0]), r"cannot read; got 3.0; expected 1.x or 2.x. Install a newer granet"),
        (set_in("version", to="1.0"), "a list of 2 integers"),
        (set_in("step", to=True), "got True"),
        (set_in("step", to="12"), "got '12'"),
        (set_in("recipe", to=[]), "expected an object"),
        (set_in("metrics", to=None), "expected an object"),
        (set_in("surprise", to=1), "an unknown header field"),
        (lambda parts: parts.fields.pop("progress"), "a header field is missing"),
        (set_in("network", "image_size", to=0), "an integer of at least 1"),
        (set_in("network", "std", to=[1]), "a list of 1 floats"),
        (set_in("network", "classes", to=["a", "a"]), "a list of different texts"),
        (set_in("weights", to=["conv.weight", "fc.weight"]), "optimizer for a name that is not among the weights"),
        (set_in("weights", to=["conv.weight"] * 2), "a list of different texts"),
        (set_in("buffers", to=["fc.bias"]), "a weight and a buffer have the same name"),
        (set_in("buffers", to=[]), "a tensor that its header does not mention"),
        (set_in("accumulators", to=["fc.weight"]), "does not mention"),
        (set_in("masks", "conv.weight", "encoding", to="gaps16"), "one of dense, bitmask, gaps8, gaps4"),
        (set_in("masks", "conv.weight", "encoding", to="gaps8"), "the positions are not sound"),
        (set_in("masks", "conv.weight", "encoding", to="gaps4"), "the positions are not sound"),
        (set_in("masks", "conv.weight", "encoding", to="dense"), "does not mention"),
        (set_in("masks", "conv.weight", "count", to=17), "(18,); expected (17,)"),
        (set_in("masks", "conv.weight", "count", to=73), "expected (73,)"),
        (set_in("masks", "conv.weight", "shape", to=[4, 2, 3, 4]), "expected (4, 2, 3, 4)"),
        (set_in("masks", "fc.weight", "shape", to=[2**40, 2**40]), "expected the shape of a tensor"),
        (set_in("masks", "fc.weight", "count", to=19), "counts contradict"),
        (set_in("masks", "fc.weight", to={}), "a header field is missing"),
        (
            set_in("explored", "fc.bias", to={"encoding": "dense", "count": 5}),
            "explored for a name that is not among the masks",
        ),
        (set_in("explored", "fc.weight", to={"encoding": "dense", "count": 20}), "counts contradict"),
        (set_in("explored", "conv.weight", "encoding", to="mask"), "one of dense, bitmask"),
        (set_in("explored", "conv.weight", "count", to=20), "the number of positions is not that of the header"),
        (set_in("explored", "conv.weight", "count", to=18), "counts contradict"),
        (set_in("optimizer", "fc.bias", "momentum_buffer", to="masked"), "a masked slot of a parameter without a mask"),
        (set_in("optimizer", "fc.weight", "step", to="masked"), "expected (5, 4)"),
        (set_in("optimizer", "fc.bias", "momentum_buffer", to="other"), "one of masked, whole"),
        (set_in("optimizer", "fc.bias", "momentum_buffer", to=1.5), "does not mention"),
        (set_in("optimizer", "fc.bias", "a/b", to=1.5), "has a slash"),
        (set_in("optimizer", "fc.bias", to={str(n): n for n in range(40)}), "too many optimizer slots"),
        (set_in("optimizer", "fc.bias", "extra", to="whole"), "lacks a tensor of its header"),
        (set_in("metrics", "text", to="\ud800"), "text that is not Unicode"),
        (set_in("recipe", "name", to="x" * 2**16), "the recipe is too long"),
        (set_in("recipe", "method", "density", to=7.0), "the recipe in the header is not valid"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, sound: bytes, change: Callable[[Parts], object], message: str) -> None:
    assert message in refused(edited(sound, change), tmp_path)


def test_a_newer_minor_version_may_add_fields(tmp_path: Path, sound: bytes) -> None:
    def change(parts: Parts) -> None:
        parts.fields.update(version=[1, 9], parent="00")

    torch.manual_seed(0)
    (tmp_path / "a.safetensors").write_bytes(edited(sound, change))
    assert_same(load(tmp_path / "a.safetensors"), checkpoint())


def put(name: str, array: np.ndarray | None) -> Callable[[Parts], None]:
    """One tensor put in, in place of another, or left out."""

    def change(parts: Parts) -> None:
        parts.tensors.pop(name, None)
        if array is not None:
            kind = {"f": "F", "u": "U", "b": "BOOL"}[array.dtype.kind]
            kind += str(8 * array.itemsize) if kind != "BOOL" else ""
            parts.tensors[name] = Tensor(kind, list(array.shape), array.tobytes())

    return change


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("weights/conv.weight", None, "lacks a tensor of its header"),
        ("weights/more", floats(1), "a tensor that its header does not mention"),
        ("weights/conv.weight", floats(17), "expected (18,)"),
        ("weights/conv.weight", floats(4, 2, 3, 3), "expected (18,)"),
        ("weights/fc.weight", floats(20), "expected (5, 4)"),
        ("optimizer/momentum_buffer/conv.weight", floats(19), "expected (18,)"),
        ("optimizer/step/fc.weight", floats(5, 4), "not stored as masked"),
        ("accumulators/conv.weight", floats(72), "expected (4, 2, 3, 3)"),
        ("masks/conv.weight", floats(9), "positions are not a row of bytes"),
        ("masks/conv.weight", np.zeros((3, 3), np.uint8), "positions are not a row of bytes"),
        ("masks/conv.weight", np.zeros(8, np.uint8), "8 bytes; expected 9"),
        ("masks/conv.weight", np.zeros(9, np.uint8), "got 0; expected 18"),
        ("masks/conv.weight", np.full(9, 255, np.uint8), "got 72; expected 18"),
        ("masks/conv.weight", np.full(9, 0b10001000, np.uint8), "missing from the explored set"),
    ],
)
def test_tensors_that_contradict_the_header(
    tmp_path: Path, sound: bytes, name: str, array: np.ndarray | None, message: str
) -> None:
    assert message in refused(edited(sound, put(name, array)), tmp_path)


def test_a_bool_that_is_neither_true_nor_false(tmp_path: Path) -> None:
    data = encoded(checkpoint(buffers={"flag": torch.tensor([True])}))
    change = put("buffers/flag", np.array([2], np.uint8).view(np.bool_))
    assert "a bool that is neither 0 nor 1" in refused(edited(data, change), tmp_path)


# Hashes


def test_a_flipped_bit_anywhere_is_noticed_and_placed(tmp_path: Path, sound: bytes) -> None:
    tensors = len(sound) - sum(len(tensor.data) for tensor in take_apart(sound).tensors.values())
    for at in sorted({*range(0, len(sound), 37), *range(120), *range(tensors - 40, tensors + 40), len(sound) - 1}):
        flipped = bytearray(sound)
        flipped[at] ^= 1 << at % 8
        message = refused(bytes(flipped), tmp_path)
        assert ", tensor '" in message if at >= tensors else "header" in message or "safetensors['" in message
    assert "hostile.safetensors, tensor 'masks/conv.weight': the tensor is damaged" in message


def test_every_way_of_loading_checks_hashes(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    for door in (load, load_weights, load_outline):
        with pytest.raises(CheckpointError, match="the tensor is damaged"):
            door(path)
    assert content_hash(path)  # that of the header, which is sound and says what the tensor should be
    path.write_bytes(sound.replace(b"coat", b"goat"))
    for door in (load, load_weights, load_outline, content_hash):
        with pytest.raises(CheckpointError, match=r"a\.safetensors, header: the header is damaged"):
            door(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b'"content_hash":', b'"content_hush":'), "no content hash in its place"),
        (lambda data: data.replace(b'"hashes":', b'"hushes":'), "does not begin with the hashes"),
        (lambda data: data.replace(b'"granet":', b'"granit":'), "not a granet checkpoint"),
    ],
)
def test_missing_hashes_are_refused(
    tmp_path: Path, sound: bytes, change: Callable[[bytes], bytes], message: str
) -> None:
    assert message in refused(change(sound), tmp_path)


# Small files with large claims


def test_a_small_file_cannot_claim_a_large_tensor(tmp_path: Path) -> None:
    size = 255 * 100
    mask = torch.zeros(size, dtype=torch.bool)
    value = checkpoint(
        weights={"w": torch.zeros(size)},
        masks={"w": mask},
        explored={"w": mask},
        optimizer={"w": {"m": torch.zeros(size)}},
        accumulators={},
    )
    data, path = encoded(value), tmp_path / "hostile.safetensors"
    tracemalloc.start()
    for claim in (size + 255, 2**30, 2**58):
        assert "before the end" in refused(edited(data, set_in("masks", "w", "shape", to=[claim])), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
    path.write_bytes(edited(data, set_in("masks", "w", "shape", to=[size + 254])))
    assert load(path).weights["w"].shape == (size + 254,)


def test_more_than_there_is_memory_for_is_an_error(
    tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.safetensors").write_bytes(sound)

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "zeros", exhausted)
    with pytest.raises(CheckpointError, match="not enough memory for what the file describes"):
        load(tmp_path / "a.safetensors")
