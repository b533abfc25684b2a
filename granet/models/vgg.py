"""VGG-19 with batch normalisation, as the sparse-training papers use it on CIFAR."""

from __future__ import annotations

from torch import nn

# Output channels of the 3 x 3 convolutions of each stage. Between stages the image is halved by a max-pool.
_STAGES = (
    (64, 64),
    (128, 128),
    (256, 256, 256, 256),
    (512, 512, 512, 512),
    (512, 512, 512, 512),
)


class VGG19(nn.Sequential):
    """Sixteen convolutions without bias, batch normalisation, one linear classifier; 20.0 M parameters.

    Maps images [N, in_channels, H, W], H and W at least 16, to logits [N, classes]. Convolutions carry the names of
    Simonyan and Zisserman (1409.1556): ``conv1_1`` to ``conv5_4``. Initialisation is that of the GraNet authors'
    code: convolutions Kaiming normal by fan-out, batch-norm scale 1, classifier normal with deviation 0.01 and no
    bias at first. (Network slimming, where this variant of VGG comes from, starts the scale at 0.5; GraNet does not.)

    Where their code averages the last 2 x 2 pixels, here whatever is left is averaged. On 32 x 32 images the two
    are the same, and other sizes work too, such as the 28 x 28 of Fashion-MNIST.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = in_channels
        for stage, widths in enumerate(_STAGES, start=1):
            if stage > 1:
                self.add_module(f"pool{stage - 1}", nn.MaxPool2d(2))
            for position, width in enumerate(widths, start=1):
                convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                self.add_module(f"conv{stage}_{position}", convolution)
                self.add_module(f"bn{stage}_{position}", nn.BatchNorm2d(width))
                self.add_module(f"relu{stage}_{position}", nn.ReLU(inplace=True))
                channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
