"""The catalog of networks by name."""

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
    """A network of the catalog."""

    name: str
    """Its name in recipes and on the command line."""
    description: str
    """One line for a list."""
    build: Callable[[int, int, int], nn.Module]
    """Builds it from input channels, classes and image size, initialised from torch's global generator."""


def _cifar(depth: int) -> Callable[[int, int, int], nn.Module]:
    return lambda channels, classes, _: cifar_resnet(depth, channels, classes)


def _cifar_stem(depth: int) -> Callable[[int, int, int], nn.Module]:
    return lambda channels, classes, _: cifar_stem_resnet(depth, channels, classes)


_CIFAR = "CIFAR ResNet of He et al. with projection shortcuts"
_STEM = "with a 3 x 3 stem for small images"
_LENET = "fully connected, two hidden layers; 0.27 M weights on 28 x 28 grey images"
_VGG = "VGG-19 with batch norm and one linear classifier, as in the GraNet paper; 20.0 M weights"

_ENTRIES = (
    ModelEntry("lenet-300-100", _LENET, LeNet300100),
    ModelEntry("resnet8", "CIFAR ResNet, one block a stage; 0.08 M weights, for trying things out", _cifar(8)),
    ModelEntry("resnet20", f"{_CIFAR}; 0.27 M weights", _cifar(20)),
    ModelEntry("resnet32", f"{_CIFAR}; 0.47 M weights", _cifar(32)),
    ModelEntry("resnet56", f"{_CIFAR}; 0.86 M weights", _cifar(56)),
    ModelEntry("resnet18", f"ResNet-18 {_STEM}; 11.2 M weights", _cifar_stem(18)),
    ModelEntry("resnet34", f"ResNet-34 {_STEM}; 21.3 M weights", _cifar_stem(34)),
    ModelEntry("resnet50", f"ResNet-50 {_STEM}, as in the GraNet paper; 23.5 M weights", _cifar_stem(50)),
    ModelEntry("vgg19", _VGG, lambda channels, classes, _: VGG19(channels, classes)),
)

CATALOG: Mapping[str, ModelEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Networks by name, in the order in which a list shows them. All take grey and colour images alike."""
