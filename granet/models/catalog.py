"""The networks that go by a plain name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from granet.models.lenet import LeNet300100
from granet.models.resnet import cifar_resnet, cifar_stem_resnet
from granet.models.vgg import VGG19


@dataclass(frozen=True)
class ModelEntry:
    """One network of the catalog."""

    name: str
    """What recipes and the command line call it."""
    description: str
    """One line for a list."""
    build: Callable[[int, int, int], nn.Module]
    """Network from input channels, classes and image size, initialised from torch's global generator."""


_ENTRIES = (
    ModelEntry(
        "lenet-300-100",
        "fully connected, two hidden layers; 0.27 M weights on 28 x 28 grey images",
        LeNet300100,
    ),
    ModelEntry(
        "resnet8",
        "CIFAR ResNet, one block a stage; 0.08 M weights, for trying things out",
        lambda channels, classes, _: cifar_resnet(8, channels, classes),
    ),
    ModelEntry(
        "resnet20",
        "CIFAR ResNet of He et al. with projection shortcuts; 0.27 M weights",
        lambda channels, classes, _: cifar_resnet(20, channels, classes),
    ),
    ModelEntry(
        "resnet32",
        "CIFAR ResNet of He et al. with projection shortcuts; 0.47 M weights",
        lambda channels, classes, _: cifar_resnet(32, channels, classes),
    ),
    ModelEntry(
        "resnet56",
        "CIFAR ResNet of He et al. with projection shortcuts; 0.86 M weights",
        lambda channels, classes, _: cifar_resnet(56, channels, classes),
    ),
    ModelEntry(
        "resnet18",
        "ResNet-18 with a 3 x 3 stem for small images; 11.2 M weights",
        lambda channels, classes, _: cifar_stem_resnet(18, channels, classes),
    ),
    ModelEntry(
        "resnet34",
        "ResNet-34 with a 3 x 3 stem for small images; 21.3 M weights",
        lambda channels, classes, _: cifar_stem_resnet(34, channels, classes),
    ),
    ModelEntry(
        "resnet50",
        "ResNet-50 with a 3 x 3 stem for small images, as in the GraNet paper; 23.5 M weights",
        lambda channels, classes, _: cifar_stem_resnet(50, channels, classes),
    ),
    ModelEntry(
        "vgg19",
        "VGG-19 with batch norm and one linear classifier, as in the GraNet paper; 20.0 M weights",
        lambda channels, classes, _: VGG19(channels, classes),
    ),
)

CATALOG: Mapping[str, ModelEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Networks by name, in the order in which a list shows them. All take grey and colour images alike."""
