"""Checkpoints: exact, identical for equal values, durable, and safe to open whatever is in the file."""

from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from exporters.dense import write_dense
from granet.checkpoint import codec, load, load_outline, load_weights, save
from granet.errors import CheckpointError, FileError
from tests.checkpoints import NETWORK, assert_same, assert_same_tensors, bits, checkpoint, encoded, tensors

FLOATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


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


def test_an_outline_has_masks_and_shapes_but_no_values(tmp_path: Path) -> None:
    original = checkpoint()
    save(tmp_path / "a.safetensors", original)
    outline = load_outline(tmp_path / "a.safetensors")
    assert_same_tensors(outline.masks, original.masks)
    assert_same_tensors(outline.explored, original.explored)
    assert (outline.recipe, outline.step, outline.metrics) == (original.recipe, original.step, original.metrics)
    for part in ("weights", "buffers", "accumulators"):
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in getattr(original, part).items()}
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in getattr(outline, part).items()} == shapes
        assert all(tensor.is_meta for tensor in getattr(outline, part).values())
    momentum = outline.optimizer["conv.weight"]["momentum_buffer"]
    assert isinstance(momentum, Tensor)
    assert (momentum.shape, momentum.is_meta, outline.optimizer["conv.weight"]["step"]) == ((4, 2, 3, 3), True, 3)


def test_a_mask_and_its_explored_set_do_not_share_memory(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", checkpoint())
    loaded = load(tmp_path / "a.safetensors")
    loaded.explored["fc.weight"].zero_()
    assert loaded.masks["fc.weight"].all()


def test_what_was_encoded_does_not_change_with_the_state() -> None:
    state = checkpoint()
    data = codec.encode(state)
    before = bytes(data)
    for tensor in tensors(state):
        tensor.zero_()
    assert bytes(data) == before


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
    assert encoded(other) == encoded(original)


def test_saving_what_was_loaded_gives_the_same_file(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", checkpoint())
    save(tmp_path / "b.safetensors", load(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_names_neither_time_nor_place_nor_user(tmp_path: Path) -> None:
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
        ({"progress": {1: "one"}}, "only Unicode strings can be keys"),
        ({"progress": {"\ud800": 1}}, "only Unicode strings can be keys"),
        ({"progress": {"name": "\udfff"}}, "text that is not Unicode"),
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
def test_values_that_the_format_cannot_store_are_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "a.safetensors", checkpoint(**parts))


def test_an_active_weight_that_was_never_explored_is_an_error() -> None:
    original = checkpoint()
    original.explored["conv.weight"].zero_()
    with pytest.raises(CheckpointError, match=r"conv\.weight: a weight is active that the explored set does not have"):
        encoded(original)


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
        with pytest.raises(FileError, match=r"could not be written; what was there before is as it was.*large"):
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
    with pytest.raises(FileError, match="another process is writing the same file"):
        save(path, first)
    assert load(path).step == 2
    assert (tmp_path / ".a.safetensors.tmp").read_bytes() == b"a third one begins"


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save(tmp_path / "a.safetensors", checkpoint())
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"No such file or directory\. Make the folder"):
        save(tmp_path / "gone" / "a.safetensors", checkpoint())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(FileError, match="Choose a folder that can be written"):
        save(tmp_path / "a.safetensors", checkpoint())


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a folder.*last\.safetensors"):
        load(tmp_path)
    with pytest.raises(FileError, match="Is a directory"):
        save(tmp_path, checkpoint())


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["absent.safetensors", "nul\0.safetensors", "x" * 300, ""])
def test_a_path_without_a_file_is_an_error(path: str) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        load(path)
    assert FileError.exit_code == 1


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
