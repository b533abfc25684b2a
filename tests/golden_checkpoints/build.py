"""The values in the golden files of this folder, made without random numbers so that they stay the same for ever.

    python -m tests.golden_checkpoints.build

writes files that are missing, and none that is there: a released version of the format does not change.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from granet.checkpoint import Checkpoint, Network, save
from granet.recipe import Recipe

FOLDER = Path(__file__).parent

RECIPE = Recipe.from_toml(
    """
    name = "golden"
    seed = 7
    model.name = "lenet-300-100"
    data.name = "mnist"
    method = {name = "rigl", density = 0.25, interval = "100it"}
    optimizer = {name = "sgd", learning_rate = 0.1, momentum = 0.9}
    schedule.name = "constant"
    training = {epochs = 3, batch_size = 50}
    """,
    where="golden",
)
NETWORK = Network(
    name="lenet-300-100", in_channels=1, classes=("zero", "one", "zwölf"), image_size=28, mean=(0.1307,), std=(0.3081,)
)


def every(nth: int, *shape: int, offset: int = 0) -> Tensor:
    """A mask in which every ``nth`` element is active."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[offset::nth] = True
    return mask


def ramp(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Multiples of 1/8 from -1/2 on, which every floating type holds exactly; 16 different ones."""
    return (torch.arange(torch.Size(shape).numel()) % 16 / 8 - 0.5).to(dtype).reshape(shape)


def under(mask: Tensor, values: Tensor) -> Tensor:
    """``values``, zero where the mask is False."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype))


def sgd() -> Checkpoint:
    """A mask in each encoding, explored sets of each kind, momentum, buffers, JSON of each type."""
    shapes = {"bits": (5, 7), "nibbles": (8, 3, 3, 3), "bytes": (40, 50), "full": (4, 3)}
    masks = {
        "bits": every(2, *shapes["bits"]),
        "nibbles": every(9, *shapes["nibbles"], offset=4),
        "bytes": every(300, *shapes["bytes"], offset=299),
        "full": every(1, *shapes["full"]),
    }
    explored = {
        "bits": masks["bits"] | every(3, *shapes["bits"]),
        "nibbles": every(1, *shapes["nibbles"]),
        "bytes": masks["bytes"],
        "full": masks["full"],
    }
    weights = {name: under(mask, ramp(*mask.shape)) for name, mask in masks.items()}
    return Checkpoint(
        weights={**weights, "bias": ramp(3)},
        masks=masks,
        buffers={"norm.mean": ramp(4), "norm.batches": torch.tensor(10**12)},
        explored=explored,
        optimizer={name: {"momentum_buffer": under(mask, -ramp(*mask.shape))} for name, mask in masks.items()}
        | {"bias": {}},
        accumulators={},
        recipe=RECIPE,
        step=1234,
        network=NETWORK,
        progress={"epoch_loss": 0.1, "epoch_examples": 100},
        metrics={"best": None, "text": 'ö \U0001f578 "\\\n', "list": [True, False, -1, 2**64 - 1, 1e-300, 1e16, -0.0]},
    )


def adam() -> Checkpoint:
    """Two masked slots and a step count, as a tensor and as a number; accumulators."""
    mask = every(4, 6, 6, offset=1)
    weight = under(mask, ramp(6, 6))
    return Checkpoint(
        weights={"a": weight, "b": ramp(2)},
        masks={"a": mask},
        buffers={},
        explored={"a": mask},
        optimizer={
            "a": {"step": torch.tensor(9.0), "exp_avg": weight / 2, "exp_avg_sq": weight * weight},
            "b": {"step": 9, "exp_avg": ramp(2) / 2, "exp_avg_sq": None, "rate": 0.5, "fresh": True},
        },
        accumulators={"a": ramp(6, 6)},
        recipe=RECIPE,
        step=9,
        network=NETWORK,
        progress={},
        metrics={},
    )


def values() -> Checkpoint:
    """Every dtype; active zeros, -0.0, infinities and NaNs with payloads; 0-d and empty tensors; an empty mask."""
    mask = every(2, 8)
    odd = torch.tensor([0x7FC00001, 0, -1, 0, 0x7F800000, 0, -(2**31), 0], dtype=torch.int32).view(torch.float32)
    floats = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    ints = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8)
    return Checkpoint(
        weights={
            "odd": odd,
            "zero": torch.zeros(8),
            "none": torch.zeros(600),
            "empty": torch.zeros(0, 3),
            "scalar": torch.tensor(2.5),
            **{str(dtype).removeprefix("torch."): under(mask, ramp(8, dtype=dtype)) for dtype in floats},
        },
        masks={
            "odd": mask,
            "zero": mask,
            "none": torch.zeros(600, dtype=torch.bool),
            "empty": torch.zeros(0, 3, dtype=torch.bool),
            "scalar": torch.tensor(True),
            **{str(dtype).removeprefix("torch."): mask for dtype in floats},
        },
        buffers={str(dtype).removeprefix("torch."): torch.arange(3).to(dtype) for dtype in (*ints, torch.bool)},
        explored={
            "odd": mask,
            "zero": torch.ones(8, dtype=torch.bool),
            "none": every(40, 600),
            "empty": torch.zeros(0, 3, dtype=torch.bool),
            "scalar": torch.tensor(True),
            **{str(dtype).removeprefix("torch."): mask for dtype in floats},
        },
        optimizer={},
        accumulators={},
        recipe=RECIPE,
        step=0,
        network=NETWORK,
        progress={},
        metrics={},
    )


GOLDEN = {"sgd": sgd, "adam": adam, "values": values}
"""What is in each file, by its name without ``.safetensors``."""


def main() -> None:
    """Writes the files that are missing."""
    for name, value in GOLDEN.items():
        path = FOLDER / f"{name}.safetensors"
        if not path.exists():
            save(path, value())
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
