"""Masks <-> bytes: exact, one-to-one, in blocks, and unimpressed by what no encoder wrote."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet.masks import codec
from granet.masks.codec import ENCODINGS, Gaps, count, decode, encode, positions

GAPS8, GAPS4 = Gaps(8), Gaps(4)
indices = st.integers(0, 2000)


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    chosen = draw(st.sets(indices))
    mask = np.zeros(max(chosen, default=-1) + 1 + draw(st.integers(0, 600)), np.bool_)
    mask[list(chosen)] = True
    return mask


def spelled(encoding: str, mask: np.ndarray) -> np.ndarray:
    found = np.flatnonzero(mask)
    return ENCODINGS[encoding].encode([found] if found.size else [], mask.size)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(mask=masks())
def test_decoding_gives_the_mask_that_was_encoded(encoding: str, mask: np.ndarray) -> None:
    data = spelled(encoding, mask)
    assert count(encoding, data, mask.size) == np.count_nonzero(mask)
    assert np.array_equal(decode(encoding, data, mask.size), mask)
    blocks = list(positions(encoding, data, mask.size))
    assert all(block.dtype == np.int64 for block in blocks)
    assert [index for block in blocks for index in block.tolist()] == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.binary(max_size=40), size=st.integers(0, 1500))
def test_bytes_that_decode_are_the_only_spelling_of_their_mask(encoding: str, data: bytes, size: int) -> None:
    given_codes = np.frombuffer(data, np.uint8)
    try:
        mask = decode(encoding, given_codes, size)
    except ValueError:
        return
    assert spelled(encoding, mask).tobytes() == data


@given(mask=masks())
def test_the_smallest_encoding_is_chosen_and_of_equals_the_first(mask: np.ndarray) -> None:
    name, data = encode(mask)
    assert np.array_equal(decode(name, data, mask.size), mask)
    lengths = {other: spelled(other, mask).size for other in ENCODINGS}
    assert name == min(lengths, key=lambda other: lengths[other])  # min takes the first
    assert data.size == lengths[name]


@pytest.mark.parametrize(("density", "encoding"), [(0.01, "gaps8"), (0.1, "gaps4"), (0.5, "bitmask")])
def test_masks_of_many_blocks(density: float, encoding: str) -> None:
    mask = np.random.default_rng(0).random(3 * 2**16 + 5) < density
    mask[2**16 : 2**17] = False  # a block without any
    name, data = encode(mask)
    assert name == encoding
    assert np.array_equal(decode(name, data, mask.size), mask)
    assert np.array_equal(np.concatenate(list(positions(name, data, mask.size))), np.flatnonzero(mask))


def test_random_masks_come_close_to_their_entropy() -> None:
    for density in (0.02, 0.05, 0.1, 0.2, 0.5):
        mask = np.random.default_rng(0).random(500_000) < density
        entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
        assert 8 * encode(mask)[1].size + 32 * mask.sum() < 1.05 * mask.size * (entropy + 32 * density)


def test_bitmask_puts_the_first_index_into_the_lowest_bit() -> None:
    assert ENCODINGS["bitmask"].encode([array(0, 3, 9)], 10).tolist() == [0b00001001, 0b00000010]


@pytest.mark.parametrize(
    ("chosen", "size", "expected"),
    [
        ([], 0, []),
        ([], 254, []),
        ([], 255, [255]),
        ([0], 1, [0]),
        ([254], 255, [254]),
        ([255], 256, [255, 0]),
        ([0, 255, 511], 512, [0, 254, 255, 0]),
        ([1, 2, 1000], 1600, [1, 0, 255, 255, 255, 232, 255, 255]),
    ],
)
def test_gaps8_skips_then_names(chosen: list[int], size: int, expected: list[int]) -> None:
    assert GAPS8.encode([array(*chosen)] if chosen else [], size).tolist() == expected


@pytest.mark.parametrize(
    ("chosen", "size", "expected"),
    [
        ([], 0, []),
        ([], 14, []),
        ([], 15, [0xFF]),  # a filler and half a byte of padding, which looks like one
        ([], 30, [0xFF]),  # two fillers
        ([], 31, [0xFF]),
        ([0], 1, [0xF0]),
        ([0, 1], 2, [0x00]),
        ([14], 15, [0xFE]),
        ([15], 16, [0x0F]),
        ([3, 20], 40, [0xF3, 0xF1]),
    ],
)
def test_gaps4_puts_the_first_code_into_the_lower_half(chosen: list[int], size: int, expected: list[int]) -> None:
    data = GAPS4.encode([array(*chosen)] if chosen else [], size)
    assert data.tolist() == expected
    assert np.flatnonzero(decode("gaps4", data, size)).tolist() == chosen


@pytest.mark.parametrize("gaps", [GAPS8, GAPS4])
@given(mask=masks())
def test_scattering_over_the_running_sum_of_the_steps_needs_no_knowledge_of_fillers(
    gaps: Gaps, mask: np.ndarray
) -> None:
    found = np.flatnonzero(mask)
    written = gaps.unpack(gaps.encode([found] if found.size else [], mask.size))
    values = np.zeros(written.size)
    values[written != gaps.filler] = 1.0 + found
    landings = np.cumsum(gaps.steps(written).astype(np.int32)) - 1
    assert len(set(landings.tolist())) == landings.size  # nothing is written twice: any order will do
    dense, expected = np.zeros(mask.size + gaps.filler), np.zeros(mask.size)  # padding lands behind the end
    dense[landings] = values
    expected[found] = 1.0 + found
    assert dense[: mask.size].tolist() == expected.tolist()


# More elements than 32 bits can count. Nothing here is as long as they are.


def test_gaps_beyond_32_bits() -> None:
    chosen, size = [7, 2**31 + 5, 2**31 + 6], 2**31 + 300
    data = GAPS8.encode([array(7), array(*chosen[1:])], size)
    assert count("gaps8", data, size) == 3
    assert [index for block in positions("gaps8", data, size) for index in block.tolist()] == chosen
    with pytest.raises(ValueError, match="past the end"):
        count("gaps8", data, size - 2**31)
    with pytest.raises(ValueError, match="before the end"):
        count("gaps8", data, size + 2**32)


@pytest.mark.parametrize("gaps", [GAPS8, GAPS4])
@given(cursor=st.integers(0, 2**62), skips=st.lists(st.integers(0, 2**14), min_size=1, max_size=5))
def test_a_block_may_begin_anywhere(gaps: Gaps, cursor: int, skips: list[int]) -> None:
    block = cursor + np.cumsum(array(*skips) + 1) - 1
    written = gaps.codes(block, cursor)
    named, behind = gaps.named(written, cursor)
    assert named.tolist() == block.tolist()
    assert behind == block[-1] + 1
    assert written.size == len(skips) + sum(skip // gaps.filler for skip in skips)


def test_bitmask_counts_bits_as_64_bit_integers() -> None:
    with pytest.raises(ValueError, match=f"expected {2**32} for {2**35} elements"):
        count("bitmask", codes(1), 2**35)
    blocks = codec._scan(np.ones(3, np.bool_), first=2**40)
    assert next(blocks).tolist() == [2**40, 2**40 + 1, 2**40 + 2]


@pytest.mark.parametrize(
    ("encoding", "data", "size", "message"),
    [
        ("bitmask", codes(1), 9, "1 bytes; expected 2"),
        ("bitmask", codes(1, 0), 8, "2 bytes; expected 1"),
        ("bitmask", codes(0, 4), 10, "behind its 10 elements"),
        ("gaps8", codes(5, 5), 11, "1 past the end"),
        ("gaps8", codes(255), 254, "1 past the end"),
        ("gaps8", codes(5), 261, "255 before the end"),
        ("gaps8", codes(), 2**60, "before the end"),
        ("gaps4", codes(0x00), 1, "1 past the end"),  # padding is 15, nothing else
        ("gaps4", codes(0xFF), 14, "1 past the end"),
        ("gaps4", codes(0xF0, 0xFF), 1, "30 past the end"),  # more padding than half a byte
        ("gaps4", codes(0xF0), 31, "15 before the end"),
        ("gaps4", codes(), 15, "15 before the end"),
        ("rle", codes(), 0, "unknown encoding 'rle'"),
    ],
)
def test_bytes_that_no_encoder_wrote_are_refused(encoding: str, data: np.ndarray, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(encoding, data, size)
    with pytest.raises(ValueError, match=message):
        positions(encoding, data, size)
