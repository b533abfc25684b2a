"""A small run of a network under any method and optimizer, for tests."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from granet import Sparsifier
from granet.methods import (
    GMP,
    SET,
    SNFS,
    Dense,
    GMPUniform,
    GraNet,
    GraNetUniform,
    RigL,
    RigLITOP,
    Static,
)
from granet.methods.base import Method
from granet.methods.snapshot import Snapshot
from granet.topology import TopologyUpdate

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
MASKED = {"conv.weight": 36, "fc1.weight": 512, "fc2.weight": 24}  # 572
TOTAL = 16

METHODS: dict[str, Method] = {
    "granet": GraNet(density=0.1, interval=2),
    "granet-sparse": GraNet(density=0.1, initial_density=0.5, interval=3),
    "granet-momentum": GraNet(density=0.1, interval=2, growth="momentum"),
    "granet-uniform": GraNetUniform(density=0.1, interval=2),
    "rigl": RigL(density=0.2, interval=2),
    "rigl-itop": RigLITOP(density=0.2, interval=3),
    "set": SET(density=0.2, interval=2),
    "snfs": SNFS(density=0.2, interval=2, momentum=0.7),
    "gmp": GMP(density=0.1, interval=2),
    "gmp-uniform": GMPUniform(density=0.3, interval=2),
    "static": Static(density=0.2),
    "dense": Dense(),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)

Make = Callable[[Iterable[Any]], Optimizer]


def make(kind: type[Optimizer], **settings: Any) -> Make:
    return lambda parameters: kind(parameters, lr=0.02, **settings)


OPTIMIZERS: dict[str, Make] = {
    "sgd": make(torch.optim.SGD),
    "sgd-momentum": make(torch.optim.SGD, momentum=0.9, weight_decay=1e-2),
    "sgd-nesterov": make(torch.optim.SGD, momentum=0.9, nesterov=True),
    "sgd-foreach": make(torch.optim.SGD, momentum=0.9, foreach=True),
    "sgd-fused": make(torch.optim.SGD, momentum=0.9, weight_decay=1e-2, fused=True),
    "adam": make(torch.optim.Adam, weight_decay=1e-2),
    "adam-amsgrad-foreach": make(torch.optim.Adam, amsgrad=True, foreach=True),
    "adam-fused": make(torch.optim.Adam, fused=True),
    "adam-without-eps": make(torch.optim.Adam, eps=0.0),
    "adamw": make(torch.optim.AdamW),
    "adamw-foreach": make(torch.optim.AdamW, foreach=True),
    "adamw-fused": make(torch.optim.AdamW, fused=True),
    "rmsprop": make(torch.optim.RMSprop, momentum=0.9, centered=True),
    "rmsprop-foreach": make(torch.optim.RMSprop, weight_decay=1e-2, foreach=True),
    "nadam": make(torch.optim.NAdam),
    "radam": make(torch.optim.RAdam),
    "adamax": make(torch.optim.Adamax),
    "adagrad": make(torch.optim.Adagrad, initial_accumulator_value=0.1),
    "adadelta": make(torch.optim.Adadelta),
    "asgd": make(torch.optim.ASGD),
    "rprop": make(torch.optim.Rprop),
    "adafactor": make(torch.optim.Adafactor),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def network(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        ("conv", nn.Conv2d(1, 4, 3)),
        ("norm", nn.BatchNorm2d(4)),
        ("tanh", nn.Tanh()),
        ("flat", nn.Flatten()),
        ("fc1", nn.Linear(64, 8)),
        ("act", nn.Tanh()),
        ("fc2", nn.Linear(8, 3)),
    ]
    return nn.Sequential(OrderedDict(layers)).to(device)


def loss_at(model: nn.Module, step: int) -> Tensor:
    """The loss on a batch that is a function of the step."""
    source = torch.Generator().manual_seed(step)
    images, labels = torch.randn(8, 1, 6, 6, generator=source), torch.randint(3, (8,), generator=source)
    device = next(model.parameters()).device
    return F.cross_entropy(model(images.to(device)), labels.to(device))


class Run:
    """A model, its optimizer and its sparsifier."""

    def __init__(self, method: Method, optimizer: Make = OPTIMIZERS["sgd-momentum"], **settings: Any) -> None:
        self.model: nn.Module = settings.pop("model", None) or network(settings.pop("device", "cpu"))
        self.optimizer = optimizer(self.model.parameters())
        settings.setdefault("total_steps", TOTAL)
        self.sparsifier = Sparsifier(self.model, self.optimizer, method, **settings)

    def backward(self) -> None:
        self.optimizer.zero_grad()
        loss_at(self.model, self.sparsifier.steps).backward()

    def step(self) -> TopologyUpdate | None:
        self.backward()
        self.optimizer.step()
        return self.sparsifier.step()

    def steps(self, count: int) -> list[TopologyUpdate]:
        return [update for update in (self.step() for _ in range(count)) if update is not None]

    def state(self) -> dict[str, Any]:
        parts = (self.model, self.optimizer, self.sparsifier)
        return copy.deepcopy({type(part).__name__: part.state_dict() for part in parts})

    def load(self, state: dict[str, Any]) -> None:
        for part in (self.model, self.optimizer, self.sparsifier):
            part.load_state_dict(state[type(part).__name__])  # type: ignore[attr-defined]

    def masked_tensors(self) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Every masked weight and every state tensor of its shape, with its mask."""
        parameters = dict(self.model.named_parameters())
        for name, mask in self.sparsifier.masks.items():
            yield name, parameters[name].detach(), mask
            for slot, value in self.optimizer.state.get(parameters[name], {}).items():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    yield f"{name} {slot}", value, mask


def identical(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, tensors bit by bit but for the sign of zero."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


@dataclass(frozen=True, kw_only=True)
class Scripted(Method):
    """An update at step 2, made by a function."""

    def __init__(self, update: Callable[[Snapshot], TopologyUpdate], needs_gradients: bool = True) -> None:
        object.__setattr__(self, "_update", update)
        object.__setattr__(self, "_needs_gradients", needs_gradients)

    def due(self, step: int, total_steps: int) -> bool:
        return step == 2

    def needs_gradients(self, step: int, total_steps: int) -> bool:
        return bool(self._needs_gradients) and step == 2  # type: ignore[attr-defined]

    def update(self, at: Snapshot) -> TopologyUpdate:
        return self._update(at)  # type: ignore[attr-defined,no-any-return]
