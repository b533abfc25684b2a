"""Packed masks are masks, at one bit a weight, whatever the memory format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from granet.masks import kernels
from granet.masks import mapping as masking
from granet.masks.layout import Layout, flat, in_shape, storage_order
from granet.masks.packed import PackedMasks

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test twice: with what a CPU is given, and with what any other device is."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
    return


def drawn(shape: tuple[int, ...], *, seed: int = 0, density: float = 0.4) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def laid_out(tensor: Tensor, form: str) -> Tensor:
    """The same values in another memory format."""
    if form == "channels_last":
        return tensor.to(memory_format=torch.channels_last)
    if form == "reversed":
        dims = list(range(tensor.dim()))[::-1]
        return tensor.permute(dims).contiguous().permute(dims)
    if form == "sliced":
        return torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]]
    return tensor.clone()


FORMS = ["contiguous", "channels_last", "reversed", "sliced"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (8, 1, 1, 4), (1, 7, 1, 1), (2, 3, 4, 5)])
def test_what_is_packed_comes_back(shape: tuple[int, ...], form: str) -> None:
    mask = laid_out(drawn(shape), form)
    other = drawn((9,), seed=1)
    packed = PackedMasks.of({"conv": mask, "bias": other})
    assert torch.equal(packed["conv"], mask)
    assert torch.equal(packed["bias"], other)
    assert packed.counts == masking.active(packed) == {"conv": int(mask.sum()), "bias": int(other.sum())}
    if form != "sliced":
        assert packed["conv"].stride() == mask.stride() or 1 in shape
    assert masking.shapes(packed) == {"conv": shape, "bias": (9,)}
    assert masking.size(packed) == mask.numel() + 9


@pytest.mark.parametrize("form", FORMS)
def test_storage_order_reads_memory_from_front_to_back(form: str) -> None:
    tensor = laid_out(torch.arange(120).view(2, 3, 4, 5), form)
    order = storage_order(tensor)
    entries = flat(tensor, order)
    assert (entries.data_ptr() == tensor.data_ptr()) == (form != "sliced")
    assert form == "sliced" or torch.equal(entries, torch.as_strided(tensor, (120,), (1,)))
    assert torch.equal(in_shape(entries, tensor.shape, order), tensor)
    place = Layout.of({"x": tensor})["x"]
    assert place.plain == (form in ("contiguous", "sliced"))
    assert torch.equal(place.logical(torch.arange(120)), entries)


@EXAMPLES
@given(
    sizes=st.lists(st.one_of(st.integers(0, 70), st.sampled_from([65_536, 200_000, 1_100_001])), max_size=6),
    skip=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_pieces_cover_every_entry_once(sizes: list[int], skip: int, seed: int) -> None:
    masks = {f"layer{n}": drawn((size,), seed=seed + n) for n, size in enumerate(sizes)}
    packed = PackedMasks.of(masks)
    names = [name for n, name in enumerate(masks) if n != skip]
    seen = {name: torch.zeros(masks[name].shape, dtype=torch.int) for name in names}
    for piece in packed.layout.only(names).pieces(torch.device("cpu")):
        bits = packed.bits[piece.bytes]
        assert 0 < len(bits) <= 2**16
        marks = kernels.unpack(bits)
        for name, part, share in piece.shares:
            seen[name][part] += 1
            assert torch.equal(marks[share], masks[name][part])
        assert sum(piece.lengths) == len(bits)
    assert all(bool((count == 1).all()) for count in seen.values())
    assert packed.only(names).counts == {name: int(masks[name].sum()) for name in names}


def test_sets_of_masks() -> None:
    a = {"x": drawn((5, 7)), "y": drawn((70_000,), seed=1)}
    b = {"x": drawn((5, 7), seed=2), "y": drawn((70_000,), seed=3)}
    first, second = PackedMasks.of(a), PackedMasks.of(b)
    assert first.intersection(second) == {name: a[name] & b[name] for name in a}
    assert first.union(second) == {name: a[name] | b[name] for name in a}
    assert first.without(second) == {name: a[name] & ~b[name] for name in a}
    assert first.updated(second.only(["y"])) == {"x": a["x"], "y": b["y"]}
    assert first == a, "none of this changes them"


def test_equality_is_that_of_names_shapes_and_positions() -> None:
    masks = {"x": drawn((3, 4, 2, 2)), "y": drawn((9,), seed=1)}
    packed = PackedMasks.of(masks)
    assert packed == masks
    assert packed == PackedMasks.of({name: laid_out(mask, "reversed") for name, mask in masks.items()})
    assert packed != {"x": masks["x"]}
    assert packed != {"y": masks["y"], "x": masks["x"]}
    assert packed != {"x": masks["x"].view(6, 8), "y": masks["y"]}
    assert packed != {"x": masks["x"], "y": ~masks["y"]}
    assert packed != 3
    assert PackedMasks.of({}) == {}


def test_everything_and_nothing() -> None:
    places = Layout.of({"x": torch.empty(3, 3), "y": torch.empty(64), "z": torch.empty(0)})
    device = torch.device("cpu")
    assert PackedMasks.all(places, device).counts == {"x": 9, "y": 64, "z": 0}
    assert PackedMasks.none(places, device).counts == {"x": 0, "y": 0, "z": 0}
    assert PackedMasks.all(places, device)["x"].all()


def test_what_is_looked_up_is_nobody_elses() -> None:
    source = drawn((40,))
    packed = PackedMasks.of({"x": source})
    before = source.clone()
    packed["x"].fill_(True)
    source.fill_(True)
    assert torch.equal(packed["x"], before)


@pytest.mark.parametrize("device", DEVICES)
@EXAMPLES
@given(size=st.integers(1, 300), seed=st.integers(0, 1000), density=st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_bits_by_numpy_and_by_torch_are_the_same(device: str, size: int, seed: int, density: float) -> None:
    mask = drawn((8 * size,), seed=seed, density=density).to(device)
    bits = kernels.pack(mask)
    assert bits.tolist() == [
        sum(int(bit) << place for place, bit in enumerate(mask[8 * n : 8 * n + 8])) for n in range(size)
    ]
    assert torch.equal(kernels.unpack(bits), mask)
    cut = -(-size // 3)
    parts = [part for part in mask.split(8 * cut) if len(part)]
    assert kernels.count_bits(bits, [len(part) // 8 for part in parts]).tolist() == [int(p.sum()) for p in parts]
    empty = torch.zeros_like(bits)
    kernels.add_bits(empty, mask.nonzero().view(-1))
    assert torch.equal(empty, bits)
