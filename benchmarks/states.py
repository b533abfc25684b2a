"""Whole training states of an ImageNet ResNet-50: a sparse checkpoint, and the dense state that it stands against."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from granet.allocation import erk, uniform
from granet.checkpoint import Checkpoint, Network
from granet.data.catalog import IMAGENET_MEAN, IMAGENET_STD
from granet.layers.maskable import maskable
from granet.masks import mapping
from granet.models import build
from granet.recipe import Recipe

ALLOCATIONS = {"erk": erk, "uniform": uniform}


def resnet50() -> nn.Module:
    """The network, 25.6 million weights."""
    return build("torchvision:resnet50", in_channels=3, classes=1000, image_size=224)


def sparse(model: nn.Module, density: float, *, allocation: str = "erk", training: bool = True) -> Checkpoint:
    """The state of a run with SGD in which half of all weights were explored, the worst case for their masks.

    Args:
        model: whose weights are kept where the mask has them.
        density: active over maskable weights.
        allocation: how they are spread, ``erk`` or ``uniform``.
        training: with momentum, buffers, metrics and what was explored; without, just the masked weights.
    """
    torch.manual_seed(0)
    shapes = {name: parameter.shape for name, parameter in maskable(model, ()).items()}
    active = mapping.random(shapes, ALLOCATIONS[allocation](shapes, density), seed=0)
    more = mapping.random(shapes, uniform(shapes, 0.5), seed=1)
    weights = {name: weight.detach() for name, weight in model.named_parameters() if training or name in shapes}
    weights = {name: weight.where(active[name], 0.0) if name in active else weight for name, weight in weights.items()}
    momenta = {name: torch.randn_like(weight) for name, weight in weights.items()}
    return Checkpoint(
        weights=weights,
        masks=active,
        buffers=dict(model.named_buffers()) if training else {},
        explored={name: mask | more[name] for name, mask in active.items()} if training else active,
        optimizer={
            name: {"momentum_buffer": momentum.where(active[name], 0.0) if name in active else momentum}
            for name, momentum in momenta.items()
            if training
        },
        accumulators={},
        recipe=Recipe.load("imagenet-resnet50-rigl"),
        step=120_000,
        network=Network(
            name="torchvision:resnet50",
            in_channels=3,
            classes=tuple(f"class {n}" for n in range(1000 if training else 2)),
            image_size=224,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        progress={"steps_per_epoch": 4954, "epoch_loss": 1.25, "epoch_correct": 1234, "epoch_examples": 76800},
        metrics={"epochs": [{"epoch": n, "loss": 1.0 / (n + 3)} for n in range(24 if training else 0)], "updates": []},
    )


def dense(model: nn.Module) -> dict[str, Any]:
    """What a loop in plain PyTorch gives to ``torch.save``: the state dicts of the network and of SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 120_000}


def channels_last(value: Checkpoint) -> Checkpoint:
    """The same state with every 4-D tensor in the memory format that convolutions like best."""

    def change(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: change(inner) for key, inner in item.items()}
        four = isinstance(item, Tensor) and item.dim() == 4
        return item.to(memory_format=torch.channels_last) if four else item

    parts = ("weights", "masks", "explored", "optimizer")
    return dataclasses.replace(value, **{part: change(getattr(value, part)) for part in parts})


def nbytes(state: object) -> int:
    """The bytes of all tensors in a checkpoint or in nested dicts and lists; those without data have none."""
    if isinstance(state, Tensor):
        return 0 if state.is_meta else state.nbytes
    if isinstance(state, Checkpoint):
        state = [state.weights, state.masks, state.buffers, state.explored, state.optimizer, state.accumulators]
    if isinstance(state, dict | list):
        return sum(map(nbytes, state.values() if isinstance(state, dict) else state))
    return 0
