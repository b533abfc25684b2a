"""Checkpoints: exact, identical for equal values, durable, and safe to open whatever is in the file."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exporters.dense import write_dense
from granet.checkpoint import Checkpoint, Network, codec, load, load_weights, save
from granet.errors import CheckpointError
from granet.recipe import Recipe

FLOATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

RECIPE = Recipe.load("quickstart")
NETWORK = Network(name="resnet8", in_channels=1, classes=("coat", "shoe"), image_size=28, mean=(0.25,), std=(0.5,))


def checkpoint(**parts: Any) -> Checkpoint:
    """A small network in training: one conv at density 1/4, one linear weight fully active, one bias without mask."""
    mask = torch.zeros(4, 2, 3, 3, dtype=torch.bool)
    mask.view(-1)[::4] = True
    weights = {
        "conv.weight": torch.randn(4, 2, 3, 3).where(mask, 0.0),
        "fc.weight": torch.randn(5, 4),
        "fc.bias": torch.zeros(5),
    }
    values: dict[str, Any] = {
        "weights": weights,
        "masks": {"conv.weight": mask, "fc.weight": torch.ones(5, 4, dtype=torch.bool)},
        "buffers": {"norm.running_mean": torch.randn(4), "norm.num_batches_tracked": torch.tensor(7)},
        "explored": {"conv.weight": mask | (torch.rand(4, 2, 3, 3) < 0.5), "fc.weight": torch.ones(5, 4).bool()},
        "optimizer": {
            "conv.weight": {"momentum_buffer": torch.randn(4, 2, 3, 3).where(mask, 0.0), "step": 3},
            "fc.weight": {"momentum_buffer": None, "step": torch.tensor(3.0)},
            "fc.bias": {"momentum_buffer": torch.randn(5), "rate": 0.1, "fresh": False},
        },
        "accumulators": {"conv.weight": torch.randn(4, 2, 3, 3)},
        "recipe": RECIPE,
        "step": 12,
        "network": NETWORK,
        "progress": {"epoch": 1, "loss": {"sum": 0.1, "examples": 64}},
        "metrics": {"best": None, "history": [{"accuracy": 0.5}, {"accuracy": 1.0}]},
    }
    return Checkpoint(**{**values, **parts})


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(BITS[tensor.itemsize])


def assert_same_tensors(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        other = right[name]
        if not isinstance(tensor, Tensor):
            assert (type(other), other) == (type(tensor), tensor)
            continue
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert torch.equal(bits(tensor), bits(other)), name


def assert_same(left: Checkpoint, right: Checkpoint) -> None:
    for part in ("weights", "masks", "buffers", "explored", "accumulators"):
        assert_same_tensors(getattr(left, part), getattr(right, part))
    assert left.optimizer.keys() == right.optimizer.keys()
    for name, slots in left.optimizer.items():
        assert_same_tensors(slots, right.optimizer[name])
    for part in ("recipe", "step", "network", "progress", "metrics"):
        assert getattr(left, part) == getattr(right, part), part


def tensors(value: Checkpoint) -> Iterator[Tensor]:
    for part in (value.weights, value.masks, value.buffers, value.explored, value.accumulators):
        yield from part.values()
    for slots in value.optimizer.values():
        yield from (slot for slot in slots.values() if isinstance(slot, Tensor))


# Round trips


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    original = checkpoint()
    save(tmp_path / "a.safetensors", original)
    loaded = load(tmp_path / "a.safetensors")
    assert_same(loaded, original)
    assert list(loaded.weights) == list(original.weights)  # in the order of the network
    for tensor in tensors(loaded):
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


shapes = st.one_of(
    st.just((0, 3)),
    st.just((2, 0)),
    st.lists(st.integers(1, 7), max_size=4).map(tuple),
    st.just((700,)),  # long enough for gaps8
)


@st.composite
def masked_tensors(draw: st.DrawFn, kinds: tuple[torch.dtype, ...] = FLOATS) -> tuple[Tensor, Tensor, Tensor]:
    """A mask and two tensors of any bits under it: NaNs of all kinds, -0.0, infinities and zeros among them."""
    shape = draw(shapes)
    density = draw(st.sampled_from([0.0, 0.002, 0.1, 0.5, 0.9, 1.0]))
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    mask = torch.rand(shape, generator=source) < density
    result = [mask]
    for _ in range(2):
        dtype = draw(st.sampled_from(kinds))
        raw = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=source)
        values = raw.view(-1).view(dtype).reshape(shape) if raw.numel() else torch.empty(shape, dtype=dtype)
        flat = bits(values).reshape(shape)
        flat[~mask] = 0
        flat[torch.rand(shape, generator=source) < 0.1] = 0
        negative_zero = -(2 ** (8 * dtype.itemsize - 1)) if dtype.itemsize > 1 else 128
        flat[mask & (torch.rand(shape, generator=source) < 0.1)] = negative_zero
        result.append(flat.view(dtype) if shape else flat.reshape(1).view(dtype).reshape(()))
    return result[0], result[1], result[2]


@settings(max_examples=80, deadline=None)
@given(drawn=masked_tensors(), extra=masked_tensors(OTHERS), everything=st.booleans())
def test_every_bit_survives_in_every_shape_dtype_and_density(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[Tensor, Tensor, Tensor],
    extra: tuple[Tensor, Tensor, Tensor],
    everything: bool,
) -> None:
    mask, weight, slot = drawn
    original = checkpoint(
        weights={"w": weight, "b": extra[1]},
        masks={"w": mask},
        explored={"w": torch.ones_like(mask) if everything else mask.clone()},
        buffers={"buffer": extra[2], "flags": extra[0]},
        optimizer={"w": {"m": slot, "n": torch.tensor(-0.0)}, "b": {"m": extra[2]}},
        accumulators={"w": weight},
    )
    path = tmp_path_factory.mktemp("property") / "a.safetensors"
    save(path, original)
    assert_same(load(path), original)
    assert_same_tensors(load_weights(path), original.weights | original.buffers)


def test_an_active_zero_stays_active(tmp_path: Path) -> None:
    original = checkpoint()
    original.weights["conv.weight"].zero_()
    save(tmp_path / "a.safetensors", original)
    assert torch.equal(load(tmp_path / "a.safetensors").masks["conv.weight"], original.masks["conv.weight"])


def test_a_negative_zero_outside_the_mask_becomes_a_positive_one(tmp_path: Path) -> None:
    original = checkpoint()
    original.weights["conv.weight"][~original.masks["conv.weight"]] = -0.0
    save(tmp_path / "a.safetensors", original)
    loaded = load(tmp_path / "a.safetensors").weights["conv.weight"]
    assert torch.equal(loaded, original.weights["conv.weight"])
    assert not torch.signbit(loaded[~original.masks["conv.weight"]]).any()


def test_parts_that_share_memory_are_saved_each(tmp_path: Path) -> None:
    whole = torch.randn(10)
    original = checkpoint(
        weights={"a": whole[:5], "b": whole[5:], "c": whole},
        masks={},
        explored={},
        optimizer={"a": {"m": whole[:5]}},
        accumulators={},
    )
    save(tmp_path / "a.safetensors", original)
    assert_same(load(tmp_path / "a.safetensors"), original)


def test_only_active_entries_are_stored(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", checkpoint())
    stored = load_file(tmp_path / "a.safetensors")
    assert stored["weights/conv.weight"].shape == (18,)
    assert stored["optimizer/momentum_buffer/conv.weight"].shape == (18,)
    assert stored["weights/fc.weight"].shape == (5, 4)
    assert "masks/fc.weight" not in stored
    assert "explored/fc.weight" not in stored


# Equal values, identical files


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equal_values_make_identical_files(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    original = checkpoint(metrics=data.draw(st.dictionaries(st.text(), st.integers(-(2**63), 2**64 - 1))))

    def shuffled(mapping: dict[str, Any]) -> dict[str, Any]:
        return {key: mapping[key] for key in data.draw(st.permutations(list(mapping)))}

    other = dataclasses.replace(
        original,
        weights={
            name: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else nn.Parameter(tensor.clone())
            for name, tensor in original.weights.items()
        },
        masks=shuffled(original.masks),
        explored=shuffled(original.explored),
        optimizer={name: shuffled(slots) for name, slots in shuffled(original.optimizer).items()},
        metrics=shuffled(original.metrics),
    )
    assert codec.encode(other) == codec.encode(original)


def test_saving_what_was_loaded_gives_the_same_file(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", checkpoint())
    save(tmp_path / "b.safetensors", load(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_nothing_of_where_and_when_is_inside(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", checkpoint())
    data = (tmp_path / "a.safetensors").read_bytes()
    assert str(tmp_path).encode() not in data
    assert os.uname().nodename.encode() not in data


# What cannot be saved exactly is not saved


@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_a_value_outside_the_mask_is_an_error_not_a_loss(tmp_path: Path, part: str) -> None:
    original = checkpoint()
    tensor = (
        original.weights["conv.weight"] if part == "weights" else original.optimizer["conv.weight"]["momentum_buffer"]
    )
    tensor[~original.masks["conv.weight"]] = float("nan")
    with pytest.raises(CheckpointError, match=r"conv\.weight: the tensor is not zero outside its mask.*54 entries"):
        save(tmp_path / "a.safetensors", original)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"metrics": {"loss": float("nan")}}, r"\['metrics'\]\['loss'\]: a number that is not finite"),
        ({"progress": {"sums": [1.0, float("inf")]}}, r"\['progress'\]\['sums'\]\[1\]: a number that is not finite"),
        ({"progress": {"big": 2**64}}, "an integer outside"),
        ({"progress": {1: "one"}}, "only strings can be keys"),
        ({"progress": {"path": Path("x")}}, "PosixPath cannot be stored"),
        ({"optimizer": {"fc.bias": {"state": "masked"}}}, "state of fc.bias: optimizer state of this type.*got str"),
        ({"optimizer": {"fc.bias": {"rate": float("inf")}}}, "a number that is not finite"),
        ({"optimizer": {"fc.bias": {"a/b": 1}}}, "has a slash"),
        ({"optimizer": {"fc.bias": {str(n): n for n in range(33)}}}, "too many optimizer slots"),
        ({"step": -1}, r"\['step'\].*got -1; expected an integer of at least 0"),
        ({"buffers": {"b": torch.zeros(2, dtype=torch.complex64)}}, "b: a tensor of this kind.*complex64"),
        ({"buffers": {"b": torch.zeros(2, device="meta")}}, "b: a tensor of this kind.*meta"),
        ({"buffers": {"b": torch.zeros(2, 2).to_sparse()}}, "b: a tensor of this kind.*sparse_coo"),
        ({"network": dataclasses.replace(NETWORK, mean=(0.5, 0.5))}, r"\['mean'\].*a list of 1 floats"),
    ],
)
def test_what_has_no_place_in_the_format_is_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "a.safetensors", checkpoint(**parts))


def test_an_active_weight_that_was_never_explored_is_an_error() -> None:
    original = checkpoint()
    original.explored["conv.weight"].zero_()
    with pytest.raises(CheckpointError, match=r"conv\.weight: a weight is active that the explored set does not have"):
        codec.encode(original)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"masks": {"x": torch.ones(1).bool()}}, "x: masks for a name that is not among the weights"),
        ({"explored": {}}, "masks for a name that is not among the explored"),
        ({"optimizer": {"x": {}}}, "x: optimizer for a name that is not among the weights"),
        ({"accumulators": {"fc.bias": torch.zeros(5)}}, "fc.bias: accumulators for a name that is not among the masks"),
        ({"accumulators": {"fc.weight": torch.zeros(5)}}, r"accumulators of fc.weight: the shape.*\(5, 4\)"),
        ({"buffers": {"fc.bias": torch.zeros(5)}}, "fc.bias: a weight and a buffer have the same name"),
    ],
)
def test_parts_that_contradict_one_another_make_no_checkpoint(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint(**parts)


# Files


def test_a_save_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, checkpoint())
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written; what was there before is as it was.*large"):
            save(path, checkpoint(step=13))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_stale_temporary_file_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / ".a.safetensors.tmp").write_bytes(b"half a checkpoint")
    save(tmp_path / "a.safetensors", checkpoint())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".a.safetensors.tmp").symlink_to(tmp_path / "precious")
    save(tmp_path / "a.safetensors", checkpoint())
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_of_two_writers_at_once_one_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first, second = tmp_path / "a.safetensors", checkpoint(step=1), checkpoint(step=2)
    sync = os.fsync

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        save(path, second)
        (tmp_path / ".a.safetensors.tmp").write_bytes(b"a third one begins")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(CheckpointError, match="another process is writing the same file"):
        save(path, first)
    assert load(path).step == 2
    assert (tmp_path / ".a.safetensors.tmp").read_bytes() == b"a third one begins"


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save(tmp_path / "a.safetensors", checkpoint())
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No such file or directory\. Make the folder"):
        save(tmp_path / "gone" / "a.safetensors", checkpoint())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(CheckpointError, match="Choose a folder that can be written"):
        save(tmp_path / "a.safetensors", checkpoint())


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a folder.*last\.safetensors"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="Is a directory"):
        save(tmp_path, checkpoint())


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["absent.safetensors", "nul\0.safetensors", "x" * 300, ""])
def test_a_path_without_a_file_is_an_error(path: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    assert CheckpointError.exit_code == 1


# Hostile files


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def edited(change: Callable[[dict[str, Any]], object], value: Checkpoint | None = None) -> bytes:
    """A checkpoint whose own header went through ``change``."""
    header, body = header_of(codec.encode(value or checkpoint()))
    fields = json.loads(header["__metadata__"]["granet"])
    change(fields)
    header["__metadata__"]["granet"] = json.dumps(fields)
    return with_header(header, body)


def with_tensor(name: str, tensor: Tensor | None) -> bytes:
    """A checkpoint with one tensor put in, in place of another, or left out."""
    data = codec.encode(checkpoint())
    stored = {key: value for key, value in safetensors.torch.load(data).items() if key != name}
    if tensor is not None:
        stored[name] = tensor
    return safetensors.torch.save(stored, header_of(data)[0]["__metadata__"])


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


def test_a_file_cut_off_anywhere(tmp_path: Path) -> None:
    data = codec.encode(checkpoint())
    for length in {*range(1, len(data), 97), 7, 8, 9, len(data) - 1}:
        refused(data[:length], tmp_path)
    assert "cut off" in refused(data[:-1], tmp_path)


def test_a_file_with_something_behind_its_end(tmp_path: Path) -> None:
    assert "behind its end" in refused(codec.encode(checkpoint()) + b"\0", tmp_path)


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
        (with_header(b"[]"), "not a safetensors file"),
        (with_header(b"{]"), "not sound JSON"),
        (with_header(b'{"\xff":1}'), "not sound JSON"),
        (with_header(b'{"a":1,"a":1}'), "duplicate keys"),
        (with_header(b'{"a":' + b"[" * 100_000), "not sound JSON"),
        (with_header(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"), "nested deeper"),
        (with_header(b'{"a":NaN}'), "not finite"),
        (with_header(b'{"a":1e999}'), "not finite"),
        (with_header(b'{"a":' + b"9" * 5000 + b"}"), "not sound JSON"),
        (with_header({"__metadata__": 1}), "expected an object"),
        (with_header({"__metadata__": {"granet": 1}}), "metadata must be text; got int"),
        (with_header({"__metadata__": {"granet": "{"}}), "not sound JSON"),
        (with_header({"__metadata__": {"granet": "[]"}}), "not that of a granet checkpoint"),
        (with_header({"t": 1}), "expected an object"),
        (with_header({"t": {"dtype": "F32", "shape": []}}), "a header field is missing"),
        (with_header({"t": {"dtype": "F31", "shape": [], "data_offsets": [0, 4]}}, b"1234"), "expected one of F64"),
        (with_header({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"), "the shape of a tensor"),
        (with_header({"t": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"), "the shape of a"),
        (with_header({"t": {"dtype": "U8", "shape": [2**62, 4], "data_offsets": [0, 0]}}), "the shape of a tensor"),
        (with_header({"t": {"dtype": "U8", "shape": [0, 2**63], "data_offsets": [0, 0]}}), "the shape of a tensor"),
        (with_header({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "does not fit its shape"),
        (with_header({"t": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}}, b"1234"), "not where it must be"),
        (with_header({"t": {"dtype": "U8", "shape": [4], "data_offsets": [1, 5]}}, b"12345"), "not where it must be"),
        (
            with_header(
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


def set_in(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(fields: Any) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("format", to="other"), "not that of a granet checkpoint"),
        (set_in("version", to=[2, 0]), "cannot read; got 2.0; expected 1.x. Install a newer granet"),
        (set_in("version", to="1.0"), "a list of 2 integers"),
        (set_in("step", to=True), "got True"),
        (set_in("step", to="12"), "got '12'"),
        (set_in("recipe", to=[]), "expected an object"),
        (set_in("metrics", to=None), "expected an object"),
        (set_in("surprise", to=1), "an unknown header field"),
        (lambda fields: fields.pop("progress"), "a header field is missing"),
        (set_in("network", "image_size", to=0), "an integer of at least 1"),
        (set_in("network", "std", to=[1]), "a list of 1 floats"),
        (set_in("network", "classes", to=["a", "a"]), "a list of different texts"),
        (set_in("weights", to=["conv.weight", "fc.weight"]), "optimizer state belongs to weights"),
        (set_in("weights", to=["conv.weight"] * 2), "a list of different texts"),
        (set_in("buffers", to=["fc.bias"]), "no buffer is named like a weight"),
        (set_in("buffers", to=[]), "a tensor that its header does not mention"),
        (set_in("accumulators", to=["fc.weight"]), "does not mention"),
        (set_in("masks", "conv.weight", "encoding", to="gaps16"), "one of dense, bitmask, gaps8"),
        (set_in("masks", "conv.weight", "encoding", to="gaps8"), "the positions are not sound"),
        (set_in("masks", "conv.weight", "encoding", to="dense"), "does not mention"),
        (set_in("masks", "conv.weight", "count", to=17), "(18,); expected (17,)"),
        (set_in("masks", "conv.weight", "count", to=73), "expected (73,)"),
        (set_in("masks", "conv.weight", "shape", to=[4, 2, 3, 4]), "expected (4, 2, 3, 4)"),
        (set_in("masks", "fc.weight", "shape", to=[2**40, 2**40]), "expected the shape of a tensor"),
        (set_in("masks", "fc.weight", "count", to=19), "counts contradict"),
        (set_in("masks", "fc.weight", to={}), "a header field is missing"),
        (set_in("masks", "fc.bias", to={"shape": [5], "encoding": "dense", "count": 5}), "every mask has an explored"),
        (set_in("explored", "conv.weight", "encoding", to="mask"), "does not mention"),
        (set_in("explored", "conv.weight", "count", to=20), "the number of positions is not that of the header"),
        (set_in("explored", "conv.weight", "count", to=17), "counts contradict"),
        (set_in("optimizer", "fc.bias", "momentum_buffer", to="masked"), "masked slots belong to masks"),
        (set_in("optimizer", "fc.bias", "momentum_buffer", to="other"), "one of masked, whole"),
        (set_in("optimizer", "fc.bias", "momentum_buffer", to=1.5), "does not mention"),
        (set_in("optimizer", "fc.bias", "a/b", to=1.5), "has a slash"),
        (set_in("optimizer", "fc.bias", to={str(n): n for n in range(40)}), "too many optimizer slots"),
        (set_in("optimizer", "fc.bias", "extra", to="whole"), "lacks a tensor of its header"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    assert message in refused(edited(change), tmp_path)


def test_a_recipe_that_does_not_validate(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(edited(set_in("recipe", "method", "density", to=7.0)))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the recipe in the header is not valid.*density"):
        load(path)


def test_a_newer_minor_version_may_add_fields(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields.update(version=[1, 9], hashes={"weights/fc.bias": "00"})

    original = checkpoint()
    (tmp_path / "a.safetensors").write_bytes(edited(change, original))
    assert_same(load(tmp_path / "a.safetensors"), original)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weights/conv.weight", None, "lacks a tensor of its header"),
        ("weights/more", torch.zeros(1), "a tensor that its header does not mention"),
        ("weights/conv.weight", torch.zeros(17), "expected (18,)"),
        ("weights/conv.weight", torch.zeros(4, 2, 3, 3), "expected (18,)"),
        ("weights/fc.weight", torch.zeros(20), "expected (5, 4)"),
        ("optimizer/momentum_buffer/conv.weight", torch.zeros(19), "expected (18,)"),
        ("accumulators/conv.weight", torch.zeros(72), "expected (4, 2, 3, 3)"),
        ("masks/conv.weight", torch.zeros(9), "positions are not a row of bytes"),
        ("masks/conv.weight", torch.zeros(3, 3, dtype=torch.uint8), "positions are not a row of bytes"),
        ("masks/conv.weight", torch.zeros(8, dtype=torch.uint8), "8 bytes; expected 9"),
        ("masks/conv.weight", torch.zeros(9, dtype=torch.uint8), "got 0; expected 18"),
        ("masks/conv.weight", torch.full((9,), 255, dtype=torch.uint8), "got 72; expected 18"),
        ("masks/conv.weight", torch.full((9,), 0b10001000, dtype=torch.uint8), "missing from the explored set"),
    ],
)
def test_tensors_that_contradict_the_header(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    assert message in refused(with_tensor(name, tensor), tmp_path)


def test_a_bool_that_is_neither_true_nor_false(tmp_path: Path) -> None:
    data = codec.encode(checkpoint(buffers={"flag": torch.tensor([True])}))
    assert "a bool that is neither 0 nor 1" in refused(data[:-1] + b"\2", tmp_path)  # bools come last in a file


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
    path = tmp_path / "hostile.safetensors"
    tracemalloc.start()
    for claim in (size + 255, 2**30, 2**58):
        assert "before the end" in refused(edited(set_in("masks", "w", "shape", to=[claim]), value), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
    path.write_bytes(edited(set_in("masks", "w", "shape", to=[size + 254]), value))
    assert load(path).weights["w"].shape == (size + 254,)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_refused_or_keeps_its_structure(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    torch.manual_seed(0)
    original = checkpoint()
    mutated = bytearray(codec.encode(original))
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mutated") / "a.safetensors"
    path.write_bytes(mutated)
    try:
        loaded = load(path)
    except CheckpointError:
        return
    for name, mask in loaded.masks.items():
        assert not loaded.weights[name].masked_fill(mask, 0).any()
        assert (loaded.explored[name] | ~mask).all()


# Dense


def test_a_dense_file_opens_everywhere(tmp_path: Path) -> None:
    original = checkpoint()
    write_dense(original, tmp_path / "dense.safetensors")
    assert_same_tensors(load_file(tmp_path / "dense.safetensors"), original.weights | original.buffers)
    with pytest.raises(CheckpointError, match="a safetensors file, but not a granet checkpoint"):
        load(tmp_path / "dense.safetensors")


def test_loaded_weights_go_into_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save(
        tmp_path / "a.safetensors",
        checkpoint(
            weights=weights, masks={}, explored={}, optimizer={}, accumulators={}, buffers=dict(model.named_buffers())
        ),
    )
    other = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    other.load_state_dict(load_weights(tmp_path / "a.safetensors"))
    assert_same_tensors(dict(other.state_dict()), dict(model.state_dict()))
