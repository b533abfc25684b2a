"""Weights in the shapes of an ImageNet ResNet-50, without the network around them."""

from __future__ import annotations

import torch
from torch import nn


def shapes() -> list[tuple[int, ...]]:
    """The 54 convolution and linear weights of ResNet-50: 25.5 million entries."""
    result: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            result += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                result.append((4 * width, inputs, 1, 1))
            inputs = 4 * width
    return [*result, (1000, 2048)]


class Weights(nn.Module):
    """Those weights as layers that a sparsifier finds, each with a gradient."""

    def __init__(self, device: torch.device, scale: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        generator = torch.Generator().manual_seed(0)
        for shape in shapes():
            wide = (max(int(shape[0] * scale), 1), *shape[1:])
            layer: nn.Module = (
                nn.Conv2d(wide[1], wide[0], wide[2], bias=False, device=device)
                if len(wide) == 4
                else nn.Linear(wide[1], wide[0], bias=False, device=device)
            )
            with torch.no_grad():
                layer.weight.copy_(torch.randn(wide, generator=generator) * 0.05)
            layer.weight.grad = torch.randn(wide, generator=generator).to(device)
            self.layers.append(layer)
