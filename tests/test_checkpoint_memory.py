"""What saving and loading take: the file, what comes of it, and no more than a copy of the largest tensor besides."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from granet.checkpoint import Checkpoint, codec, content_hash, load, load_outline, load_weights, save, verify
from tests.checkpoints import checkpoint, tensors

SHAPE = (8, 256, 1024)
LARGEST = 4 * 8 * 256 * 1024  # bytes, 8 MiB
SLACK = 3 * 2**20  # the header, blocks of positions, and Python itself


def large(density: float) -> Checkpoint:
    """Two weights of 8 MiB with two slots each."""
    names = "ab"
    masks = {name: torch.rand(SHAPE) < density for name in names}
    return checkpoint(
        weights={name: torch.randn(SHAPE).where(masks[name], 0.0) for name in names},
        masks=masks,
        explored={name: mask | (torch.rand(SHAPE) < 0.5) for name, mask in masks.items()},
        optimizer={
            name: {slot: torch.randn(SHAPE).where(mask, 0.0) for slot in ("exp_avg", "exp_avg_sq")}
            for name, mask in masks.items()
        },
        accumulators={},
        buffers={},
    )


@contextmanager
def peak_above(*allowed: int) -> Iterator[None]:
    """NumPy and Python may allocate so much inside, and no more."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= sum(allowed) + SLACK, f"{peak / 2**20:.2f} MiB"


@pytest.fixture(params=[0.02, 0.1, 0.24, 0.5, 0.95])
def state(request: pytest.FixtureRequest) -> Checkpoint:
    return large(request.param)


def test_encoding_takes_the_file_and_a_copy_of_the_largest_tensor(state: Checkpoint) -> None:
    codec.encode(checkpoint())  # what is imported and cached the first time
    size = len(codec.encode(state))
    with peak_above(size, LARGEST):
        codec.encode(state)


@pytest.mark.parametrize("door", [load, load_weights])
def test_loading_takes_what_is_loaded_and_a_copy_of_the_largest_tensor(
    tmp_path: Path, state: Checkpoint, door: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.safetensors"
    save(path, state)
    result = sum(tensor.nbytes for tensor in (tensors(state) if door is load else state.weights.values()))
    with peak_above(result, LARGEST):
        door(path)


def test_an_outline_takes_the_memory_of_its_masks(tmp_path: Path, state: Checkpoint) -> None:
    path = tmp_path / "a.safetensors"
    save(path, state)
    mask = LARGEST // 4  # a byte for each element
    with peak_above(2 * 2 * mask, mask):
        load_outline(path)
    with peak_above(3 * mask):  # those of one weight at a time
        verify(path)
    with peak_above(0):
        content_hash(path)
