"""Changes of masks <-> bytes: exact, about as long as their entropy, as the specification says, safe from anything."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from granet.errors import CheckpointError
from granet.history import changes, version1
from granet.history import format as log
from granet.masks.codec import Mask
from tests import independent_history

Masks = dict[str, Mask]


def deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def random_masks(dice: np.random.Generator, sizes: list[int], density: float) -> Masks:
    return {f"layer{number}": dice.random(size) < density for number, size in enumerate(sizes)}


def moved(dice: np.random.Generator, masks: Masks, lost: float, gained: float) -> Masks:
    """Masks in which shares of the active and of the other weights changed."""
    return {name: np.where(m, dice.random(m.size) >= lost, dice.random(m.size) < gained) for name, m in masks.items()}


def same(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), max_size=4),
    shares=st.tuples(*[st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0])] * 3),
    seed=st.integers(0, 1000),
)
def test_any_change_comes_back(sizes: list[int], shares: tuple[float, float, float], seed: int) -> None:
    dice = np.random.default_rng(seed)
    before = random_masks(dice, sizes, shares[0])
    after = moved(dice, before, shares[1], shares[2])
    assert same(changes.decode(changes.encode(before, after), before), after)


@pytest.mark.parametrize("gap", [[0, 1, 2], [99_997, 99_998, 99_999], [5, 50_000]])
def test_changes_with_a_structure_come_back_too(gap: list[int]) -> None:
    before = {"one": np.zeros(100_000, np.bool_)}
    after = {"one": np.isin(np.arange(100_000), gap)}
    assert same(changes.decode(changes.encode(before, after), before), after)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("dropped", [0.01, 0.1, 0.25, 0.38, 0.5, 0.62, 0.9])
def test_a_change_costs_about_its_entropy(density: float, dropped: float) -> None:
    dice = np.random.default_rng(0)
    before = random_masks(dice, [60_000, 9_000, 30_000], density)
    after = moved(dice, before, dropped, dropped * density / (1 - density) if density < 0.5 else 0.1)
    subsets = [(np.count_nonzero(was & (before[n] != after[n])), np.count_nonzero(was))
               for n in before for was in (before[n], ~before[n])]  # fmt: skip
    assert len(changes.encode(before, after)) < 1.08 * changes.entropy_bits(subsets) / 8 + 100


def test_the_entropy_counts_subsets_of_known_size() -> None:
    expected = np.log2(6.0) + np.log2(10.0)  # 2 of 4, 3 of 5
    assert changes.entropy_bits([(2, 4), (3, 5), (0, 7), (7, 7)]) == pytest.approx(expected)


def history(*, stored: bool, updates: int = 4, sizes: tuple[int, ...] = (700, 24, 3)) -> tuple[bytes, list[Masks]]:
    """A file and the masks that it tells of."""
    dice = np.random.default_rng(1)
    present = random_masks(dice, list(sizes), 0.4)
    shapes = {name: (mask.size // 3, 3) if mask.size % 3 == 0 else (mask.size,) for name, mask in present.items()}
    data, chain = log.begin(7, shapes, present, stored=stored)
    states, step = [present], 7
    for number in range(updates):
        after = moved(dice, present, 0.3 / (number + 1), 0.1)
        frame, chain = log.entry(step + 10, step, present, after, chain)
        data, present, step = data + frame, after, step + 10
        states.append(after)
    return data, states


def replayed(data: bytes, drawn: Masks) -> list[Masks]:
    found = log.parse(data, "test")
    states = [found.stored_masks() if found.stored else drawn]
    for entry in found.entries:
        states.append(found.decode(entry.change, states[-1]))
    return states


@pytest.mark.parametrize("stored", [True, False])
def test_a_file_replays_to_the_masks_that_were_written(stored: bool) -> None:
    data, states = history(stored=stored)
    found = log.parse(data, "test")
    assert [entry.step for entry in found.entries] == [17, 27, 37, 47]
    assert (found.version, found.start.step, found.incomplete_bytes, found.last.end) == (2, 7, 0, len(data))
    assert all(same(mine, theirs) for mine, theirs in zip(replayed(data, states[0]), states, strict=True))


@pytest.mark.parametrize("stored", [True, False])
def test_the_specification_is_enough_to_read_it(stored: bool) -> None:
    data, states = history(stored=stored, sizes=(3000, 40, 9))
    told = list(independent_history.masks(data, [mask.tolist() for mask in states[0].values()]))
    assert [step for step, _ in told] == [7, 17, 27, 37, 47]
    for (_, theirs), mine in zip(told, states, strict=True):
        assert theirs == [mask.tolist() for mask in mine.values()]


def test_a_file_that_is_cut_off_keeps_its_complete_updates() -> None:
    data, _ = history(stored=True)
    ends = [entry.end for entry in log.parse(data, "test").entries]
    start = log.parse(data, "test").start.end
    for cut in range(len(data)):
        if cut < start:
            with pytest.raises(CheckpointError, match=r"damaged|not a history"):
                log.parse(data[:cut], "test")
            continue
        found = log.parse(data[:cut], "test")
        assert [entry.end for entry in found.entries] == [end for end in ends if end <= cut]
        assert found.incomplete_bytes == cut - max([start, *(end for end in ends if end <= cut)])


def test_a_flipped_bit_ends_the_history_there() -> None:
    data, _ = history(stored=False)
    found = log.parse(data, "test")
    dice = np.random.default_rng(0)
    for place in dice.integers(found.start.end, len(data), 100):
        broken = bytearray(data)
        broken[place] ^= 1 << int(dice.integers(8))
        whole = [entry for entry in found.entries if entry.end <= place]
        assert list(log.parse(bytes(broken), "test").entries) == whole


def damaged(dice: np.random.Generator, sound: bytes) -> bytes:
    """A change with some bytes replaced, removed or added."""
    broken = bytearray(sound)
    for _ in range(int(dice.integers(1, 4))):
        broken[int(dice.integers(len(broken)))] = int(dice.integers(256))
    return bytes(broken[: len(broken) - int(dice.integers(3))] + bytes(int(dice.integers(3))))


def test_a_damaged_change_gives_an_error_and_never_other_masks() -> None:
    dice = np.random.default_rng(0)
    before = random_masks(dice, [500, 30], 0.3)
    after = moved(dice, before, 0.2, 0.1)
    sound = changes.encode(before, after)
    refused = 0
    for _ in range(300):
        try:
            assert same(changes.decode(damaged(dice, sound), before), after)
        except ValueError:
            refused += 1
    assert refused > 290  # some bits at the end of deflate mean nothing


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (b"", "cut off"),
        (b"\1" + deflate(b""), "cut off"),
        (b"\3" + deflate(b"") + b"\1" + deflate(b""), "unknown encoding"),
        (b"\1\xff\xff\xff" + deflate(b""), "not compressed data"),
        (b"\1" + deflate(bytes(2**26)) + b"\1" + deflate(b""), "too long"),
        (b"\1" + deflate(b"")[:-1], "too short"),
        (b"\1" + deflate(b"") + b"\1" + deflate(b"\xff"), "past the end"),
        (b"\1" + deflate(b"") + b"\1" + deflate(b""), "checksum"),
        (b"\1" + deflate(b"") + b"\1" + deflate(b"") + b"\0", "bytes follow"),
    ],
)
def test_malformed_changes_are_refused_in_little_memory(sets: bytes, message: str) -> None:
    before = {"one": np.zeros(200, np.bool_)}
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        changes.decode(bytes(4) + sets, before)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# Format 1, which is read but no longer written

VERSION_1 = Path(__file__).parent / "golden/v1/runs/granet-rewound/round-01/history.bin"


def test_the_specification_is_enough_to_read_format_1() -> None:
    data = VERSION_1.read_bytes()
    states = replayed(data, {})
    told = list(independent_history.masks(data, []))
    assert log.parse(data, "test").version == 1
    assert [step for step, _ in told] == [70, 75, 90, 105, 120, 135]
    for (_, theirs), mine in zip(told, states, strict=True):
        assert theirs == [mask.tolist() for mask in mine.values()]


def test_a_damaged_change_of_format_1_is_refused() -> None:
    dice = np.random.default_rng(0)
    data = VERSION_1.read_bytes()
    before, sound = replayed(data, {})[0], log.parse(data, "test").entries[0].change
    for _ in range(150):
        if (broken := damaged(dice, sound)) != sound:
            with pytest.raises(ValueError, match=r"."):
                version1.decode(broken, before)


# The header


def with_header(data: bytes, old: bytes, new: bytes) -> bytes:
    """A file without updates whose header says something else, of the same length."""
    body = data[data.index(b"{") : -4].replace(old, new)
    check = zlib.crc32(body, zlib.crc32(log.MAGIC))
    return data[: data.index(b"{")] + body + check.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"version":[2,0]', b'"version":[3,0]', r"of a version that this granet cannot read; got version 3\.0"),
        (b'"granet history"', b'"another thing!"', "not a history"),
        (b'"check"', b'"chuck"', "header field is missing"),
        (b'"layer0"', b'"layer1"', "different texts"),
        (b'"recipe"', b'"memory"', "one of stored, recipe"),
        (b"[8,3]", b"[-8,3", "not sound JSON"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(old: bytes, new: bytes, message: str) -> None:
    data, _ = history(stored=False, updates=0)
    assert log.parse(with_header(data, b"", b""), "test").entries == ()
    with pytest.raises(CheckpointError, match=message):
        log.parse(with_header(data, old, new), "test")


def test_masks_are_flattened_in_row_major_order() -> None:
    mask = torch.rand(2, 3, 4) < 0.5
    (flat,) = changes.flat({"weight": mask}).values()
    assert flat.tolist() == mask.reshape(-1).tolist()
    image = torch.rand(4, 3, 2, 2) < 0.5
    (flat,) = changes.flat({"weight": image.contiguous(memory_format=torch.channels_last)}).values()
    assert flat.tolist() == image.reshape(-1).tolist()
