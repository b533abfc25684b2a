"""Small checkpoints and how to compare them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from granet.checkpoint import Checkpoint, Network, codec
from granet.recipe import Recipe

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


def encoded(value: Checkpoint) -> bytes:
    """The bytes of its file."""
    return bytes(codec.encode(value))
