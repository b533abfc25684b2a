"""The networks of the golden files. Files name them, so neither their names nor what they compute may ever change."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Golden(nn.Module):
    """Two convolutions in long strides, a batch norm, two linear layers; 6,352 weights that can be masked."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(in_channels, 16, 5, stride=3, bias=False), nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 32, 3, stride=2)
        self.hidden, self.fc = nn.Linear(32, 32), nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.two(F.relu(self.norm(self.one(images)))))
        return self.fc(F.relu(self.hidden(features.mean((2, 3)))))


def golden(in_channels: int, classes: int) -> nn.Module:
    return Golden(in_channels, classes)


class Wide(nn.Sequential):
    """A linear layer of 200,704 weights and a small one."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.flatten, self.hidden, self.relu = nn.Flatten(), nn.Linear(pixels, 256), nn.ReLU()
        self.fc = nn.Linear(256, classes)


def wide(in_channels: int, classes: int) -> nn.Module:
    """For images of 28 x 28."""
    return Wide(in_channels * 28 * 28, classes)
