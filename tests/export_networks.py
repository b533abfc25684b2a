"""Networks to export, and checkpoints of them at a density, without training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters import tracing
from granet.allocation import uniform
from granet.checkpoint import Checkpoint, Network, save
from granet.layers.maskable import maskable
from granet.masks import mapping
from granet.models import build
from granet.recipe import Recipe

SIZE, CHANNELS, CLASSES = 8, 3, ("coat", "shoe", "shirt")


class Small(nn.Module):
    """Convolutions with every kind of norm around them, a residual sum, a grouped layer, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.after = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 32, bias=False)
        self.classifier = nn.Linear(32, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.first(images)))
        features = F.relu(self.after(features + self.grouped(features)))
        return self.classifier(F.relu(self.hidden(features.mean((2, 3)))))


class Tied(nn.Module):
    """Two layers with one weight, and a layer over a sequence, whose weight torch stores transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.sequence = nn.Linear(CHANNELS * SIZE, 8)
        self.classifier = nn.Linear(8, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        rows = self.sequence(images.permute(0, 2, 1, 3).flatten(2))
        return self.classifier(self.two(F.relu(self.one(rows.mean(1)))))


class WithHead(nn.Module):
    """A head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Small(), nn.Linear(len(CLASSES), 7)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.body(images)
        return self.head(logits) if self.training else logits


class TwoInputs(nn.Module):
    """A picture and a word, two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.words = nn.Conv2d(3, 8, 3), nn.Embedding(10, 8)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 5)

    def forward(self, images: Tensor, word: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        both = F.relu(self.picture(images).mean((2, 3))) + self.words(word)
        return self.left(both), {"right": self.right(both)}


class Doubling(nn.Module):
    """Uses twice its weight, which torch replaces by the product."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(CHANNELS * SIZE * SIZE, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(images.flatten(1), self.fc.weight * 2, self.fc.bias)


class Strided(nn.Module):
    """Quick to train: convolutions in long strides."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(in_channels, 16, 5, stride=3, bias=False), nn.BatchNorm2d(16)
        self.two, self.fc = nn.Conv2d(16, 32, 3, stride=2), nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.two(F.relu(self.norm(self.one(images)))))
        return self.fc(features.mean((2, 3)))


class Flat(nn.Module):
    """A linear layer on pixels, and something done to its output."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.what = nn.Linear(CHANNELS * SIZE * SIZE, len(CLASSES)), what

    def forward(self, images: Tensor) -> Tensor:
        return self.what(self.fc(images.flatten(1)))


class Enlarging(nn.Module):
    """A Resize, whose scales are fp32 whatever the graph computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(CHANNELS, 16, 3), nn.Linear(16, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.interpolate(self.conv(images), scale_factor=2.0, mode="bilinear").mean((2, 3)))


def strided(in_channels: int, classes: int) -> nn.Module:
    return Strided(in_channels, classes)


def small() -> nn.Module:
    return Small()


def tied() -> nn.Module:
    return Tied()


def with_head() -> nn.Module:
    return WithHead()


def two_inputs() -> nn.Module:
    return TwoInputs()


def doubling() -> nn.Module:
    return Doubling()


def enlarging() -> nn.Module:
    return Enlarging()


def bessel() -> nn.Module:
    return Flat(torch.special.bessel_j0)


def branching() -> nn.Module:
    return Flat(lambda logits: logits if logits.sum() > 0 else -logits)


def random() -> nn.Module:
    return Flat(lambda logits: F.dropout(logits, training=True))


def picture_and_word() -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 3, 6, 6), torch.tensor([9])


def words_alone() -> str:
    return "word"


@contextmanager
def traced_once() -> Iterator[None]:
    """torch takes most of the time of an export; inside, it is asked once for the same graph of the same weights."""
    known: dict[object, tracing.Traced] = {}
    trace = tracing.trace

    def remembered(model: nn.Module, example: tracing.Example, *, where: str, opset: int | None = None) -> Any:
        state = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())).digest()
        key = (where, opset, state, *(tuple(tensor.shape) for tensor in example))
        if key not in known:
            known[key] = trace(model, example, where=where, opset=opset)
        return replace(known[key], model=known[key].model.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "trace", remembered)
        yield


def checkpoint(factory: Callable[[], nn.Module], *, density: float = 0.2, scale: float = 1.0) -> Checkpoint:
    """A checkpoint of the network that ``factory`` makes, its norms and weights drawn at random.

    ``scale`` multiplies the weights.
    """
    torch.manual_seed(0)
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    network = Network(
        name=f"{factory.__module__}:{factory.__name__}",
        in_channels=CHANNELS,
        classes=CLASSES,
        image_size=SIZE,
        mean=(0.5,) * CHANNELS,
        std=(0.25,) * CHANNELS,
    )
    return _masked(model, network, density, scale)


def saved(folder: Path, factory: Callable[[], nn.Module], **settings: float) -> Path:
    """The same as a file."""
    path = folder / f"{factory.__name__}.safetensors"
    save(path, checkpoint(factory, **settings))
    return path


def save_catalogued(path: Path, name: str) -> None:
    """A file with a network of the catalog for the embedded images, not trained."""
    classes = tuple(f"class {number}" for number in range(10))
    network = Network(name=name, in_channels=1, classes=classes, image_size=28, mean=(0.25,), std=(0.5,))
    save(path, _masked(build(name, in_channels=1, classes=10, image_size=28), network, 0.2, 1.0))


def _masked(model: nn.Module, network: Network, density: float, scale: float) -> Checkpoint:
    shapes = {name: parameter.shape for name, parameter in maskable(model).items()}
    active = mapping.random(shapes, uniform(shapes, density), seed=0)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Checkpoint(
        # A product, as training in other programs makes it, leaves zeros of both signs.
        weights={name: w * active[name] * scale if name in active else w for name, w in weights.items()},
        masks=active,
        buffers={name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()},
        explored=active,
        optimizer={},
        accumulators={},
        recipe=Recipe.load("quickstart"),
        step=7,
        network=network,
        progress={},
        metrics={},
    )
