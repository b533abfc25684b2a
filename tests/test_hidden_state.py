"""State of networks that no checkpoint would hold is refused before training where it matters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.commandline import Granet

TRAIN = "train --epochs 1 --batch-size 900 --set method.interval=2it --set method.end=6it --out run --model"


class Plain(nn.Module):
    """A network for the embedded images."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 8, 3, stride=4), nn.Linear(392, classes)

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.conv(images)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))


class Average(Plain):
    """Subtracts a running mean that is a plain tensor."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.mean = torch.zeros(392)

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * found.detach().mean(0)
        return found - self.mean


class History(Plain):
    """Adds what it kept in a list."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.kept: list[Tensor] = []

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        if self.training:
            self.kept.append(found.detach().mean(0))
        return found + sum(self.kept)


class Counter(Plain):
    """Warms up by a counter, in training alone."""

    steps = 0

    def features(self, images: Tensor) -> Tensor:
        self.steps += self.training
        return super().features(images) * (min(self.steps / 10, 1) if self.training else 1)


class OwnGenerator(Plain):
    """Drops features by a generator of its own."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.generator = torch.Generator().manual_seed(1)

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        return found * (torch.rand(392, generator=self.generator) < 0.5) if self.training else found


class Cache(Plain):
    """Keeps features for whoever wants to look at them, and counts calls."""

    calls = 0

    def features(self, images: Tensor) -> Tensor:
        self.last, self.calls = super().features(images), self.calls + 1
        return self.last


class InBuffer(Average):
    """The running mean where it belongs."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        mean = self.__dict__.pop("mean")
        self.register_buffer("mean", mean)


@pytest.mark.parametrize(
    ("network", "attribute"), [(Average, "mean"), (History, "kept"), (Counter, "steps"), (OwnGenerator, "generator")]
)
def test_state_that_outputs_depend_on_is_refused_by_name(
    granet: Granet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: type[nn.Module], attribute: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = granet(*TRAIN.split(), f"tests.test_hidden_state:{network.__name__}")
    assert answer.code == 1
    assert "no checkpoint holds" in answer.err
    assert attribute in answer.err
    assert "register_buffer" in answer.err
    assert not list(Path("run").rglob("*.safetensors"))


@pytest.mark.parametrize("network", [Cache, InBuffer])
def test_caches_and_buffers_train(
    granet: Granet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: type[nn.Module]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = granet(*TRAIN.split(), f"tests.test_hidden_state:{network.__name__}")
    assert answer.code == 0, answer.err
