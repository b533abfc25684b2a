"""LeNet-300-100: the fully connected network of the lottery ticket papers."""

from __future__ import annotations

from torch import nn


class LeNet300100(nn.Sequential):
    """Two hidden layers, 300 and 100 wide, on the flattened image; 266,610 parameters on 28 x 28 grey images.

    Maps images [N, in_channels, image_size, image_size] to logits [N, classes]. LeCun et al. 1998. Weights are
    Kaiming normal and biases torch's default, as in Frankle and Carbin's later code and as in the CIFAR ResNets
    here; their paper (1803.03635) says Glorot.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(in_channels * image_size * image_size, 300)
        self.relu1 = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(300, 100)
        self.relu2 = nn.ReLU(inplace=True)
        self.fc3 = nn.Linear(100, classes)
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.kaiming_normal_(layer.weight)
