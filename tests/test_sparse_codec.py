"""Positions <-> bytes: exact, one-to-one, and unimpressed by what no encoder wrote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet.sparse_codec import ENCODINGS, FILLER, decode, encode, gaps8_steps

indices = st.integers(0, 2000)


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(chosen=st.sets(indices), rest=st.integers(0, 600))
def test_decoding_gives_the_positions_that_were_encoded(encoding: str, chosen: set[int], rest: int) -> None:
    size = max(chosen, default=-1) + 1 + rest
    positions = array(*sorted(chosen))
    data = ENCODINGS[encoding].encode(positions, size)
    decoded = decode(encoding, data, size)
    assert decoded.dtype == np.int64
    assert decoded.tolist() == positions.tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.binary(max_size=40), size=st.integers(0, 1500))
def test_bytes_that_decode_are_the_only_spelling_of_their_positions(encoding: str, data: bytes, size: int) -> None:
    given_codes = np.frombuffer(data, np.uint8)
    try:
        positions = decode(encoding, given_codes, size)
    except ValueError:
        return
    assert ENCODINGS[encoding].encode(positions, size).tolist() == given_codes.tolist()


def test_bitmask_puts_the_first_index_into_the_lowest_bit() -> None:
    assert ENCODINGS["bitmask"].encode(array(0, 3, 9), 10).tolist() == [0b00001001, 0b00000010]


@pytest.mark.parametrize(
    ("positions", "size", "expected"),
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
def test_gaps8_skips_then_names(positions: list[int], size: int, expected: list[int]) -> None:
    assert ENCODINGS["gaps8"].encode(array(*positions), size).tolist() == expected


@given(chosen=st.sets(indices, min_size=1), rest=st.integers(0, 600))
def test_scattering_over_the_running_sum_of_the_steps_needs_no_knowledge_of_fillers(
    chosen: set[int], rest: int
) -> None:
    positions, size = array(*sorted(chosen)), max(chosen) + 1 + rest
    data = ENCODINGS["gaps8"].encode(positions, size)
    values = np.zeros(data.size)
    values[data != FILLER] = 1.0 + positions
    landings = np.cumsum(gaps8_steps(data).astype(np.int32))
    assert len(set(landings.tolist())) == landings.size  # nothing is written twice: any order will do
    dense, expected = np.zeros(size), np.zeros(size)
    dense[landings] = values
    expected[positions] = 1.0 + positions
    assert dense.tolist() == expected.tolist()


@given(chosen=st.sets(indices), rest=st.integers(0, 600))
def test_the_smallest_encoding_is_chosen(chosen: set[int], rest: int) -> None:
    positions, size = array(*sorted(chosen)), max(chosen, default=-1) + 1 + rest
    name, data = encode(positions, size)
    lengths = {other: ENCODINGS[other].encode(positions, size).size for other in ENCODINGS}
    assert data.size == lengths[name] == min(lengths.values())


def test_indices_beyond_32_bits() -> None:
    positions, size = array(7, 2**31 + 5, 2**31 + 6), 2**31 + 300
    name, data = encode(positions, size)
    assert name == "gaps8"
    assert data.size == pytest.approx(size / 255, rel=1e-4)
    assert decode(name, data, size).tolist() == positions.tolist()


@pytest.mark.parametrize("positions", [[1, 1], [2, 1], [-1], [10], [0, 2**40]])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_positions_that_are_not_increasing_or_outside_are_refused(encoding: str, positions: list[int]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        ENCODINGS[encoding].encode(array(*positions), 10)


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
        ("rle", codes(), 0, "unknown encoding 'rle'"),
    ],
)
def test_bytes_that_no_encoder_wrote_are_refused(encoding: str, data: np.ndarray, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(encoding, data, size)
