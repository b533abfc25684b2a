"""Residual networks for small images: the CIFAR family of He et al., and ResNet-18/34/50 with a CIFAR stem."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    """Return the identity where shapes allow it, otherwise a 1 x 1 convolution with batch normalisation."""
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 1512.03385, figure 5 left)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [N, width, H / stride, W / stride]."""
        hidden = self.relu(self.bn1(self.conv1(features)))
        hidden = self.bn2(self.conv2(hidden))
        output: Tensor = self.relu(hidden + self.downsample(features))
        return output


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which carries the stride) and 1 x 1 to four times the width (figure 5 right)."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.expansion * width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)
        self.downsample = _shortcut(channels, self.expansion * width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [N, 4 width, H / stride, W / stride]."""
        hidden = self.relu(self.bn1(self.conv1(features)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        output: Tensor = self.relu(hidden + self.downsample(features))
        return output


class ResNet(nn.Sequential):
    """A 3 x 3 stem without pooling, stages that halve the image from the second on, a global average, a classifier.

    Maps images [N, in_channels, H, W] of any size to logits [N, classes]. Layers run in the order in which they
    are set below and are named as in torchvision: ``conv1``, ``layer2.0.conv1``, ``layer2.0.downsample.0``, ``fc``.

    Args:
        block: the residual block.
        stages: width and number of blocks of each stage; the stem is as wide as the first.
        in_channels: channels of the images.
        classes: number of logits.
        classifier_bias: whether the classifier has one.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stages: Sequence[tuple[int, int]],
        in_channels: int,
        classes: int,
        *,
        classifier_bias: bool,
    ) -> None:
        super().__init__()
        channels = stages[0][0]
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        for number, (width, blocks) in enumerate(stages, start=1):
            stage = nn.Sequential()
            for position in range(blocks):
                halves = number > 1 and position == 0
                stage.append(block(channels, width, stride=2 if halves else 1))
                channels = width * block.expansion
            self.add_module(f"layer{number}", stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, classes, bias=classifier_bias)


def cifar_resnet(depth: int, in_channels: int, classes: int) -> ResNet:
    """Build ResNet-8/20/32/56 of He et al. section 4.2: three stages, 16, 32 and 64 wide; ``depth`` is 6 n + 2.

    Shortcuts that change shape are projections (a 1 x 1 convolution and batch normalisation), as in the code of
    the GraNet and rewinding papers, where He et al. pad with zeros (option A): 2,752 weights more. Weights are
    Kaiming normal by fan-in, the classifier's too, as in the same code.
    """
    blocks = (depth - 2) // 6
    stages = [(16, blocks), (32, blocks), (64, blocks)]
    network = ResNet(BasicBlock, stages, in_channels, classes, classifier_bias=True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network


_BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def cifar_stem_resnet(depth: int, in_channels: int, classes: int) -> ResNet:
    """Build ResNet-18/34/50 with a 3 x 3 convolution instead of 7 x 7 and max-pool, for small images.

    As in the GraNet authors' code the classifier has no bias and every layer keeps torch's default
    initialisation (Kaiming uniform with a = sqrt 5).
    """
    block, blocks = _BLOCKS[depth]
    stages = list(zip((64, 128, 256, 512), blocks, strict=True))
    return ResNet(block, stages, in_channels, classes, classifier_bias=False)
