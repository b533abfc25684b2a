"""Networks as people write them, for 3 classes and images of 3 x 8 x 8: layouts, outputs, wrappers and errors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """A convolution and a classifier, which the others change in one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(72, 3)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x).flatten(1))


# Memory layout


class View(Plain):
    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.fc(h.view(h.size(0), -1))


class GroupedView(Plain):
    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.fc(h.view(h.size(0), 2, -1).flatten(1))


class Patches(nn.Module):
    """Cuts the images themselves into patches by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(48, 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.view(len(x), 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(x.size(0), 4, 48)
        return self.last(F.relu(self.fc(patches)).flatten(1))


class Contiguous(Plain):
    """Insists on the usual strides, as a kernel of one's own does."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.stride() == (x[0].numel(), x[0, 0].numel(), x.shape[3], 1), x.stride()
        return super().forward(x)


class TrainingView(Plain):
    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.fc(h.view(h.size(0), -1) if self.training else h.flatten(1))


class Volume(Plain):
    """Has a weight of five dimensions, which cannot be channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.volume(x[:, None])[:, 0])


# Outputs


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


@dataclass
class Output:
    logits: Tensor


class Auxiliary(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.features(x)
        y = self.fc(h.flatten(1))
        return (y, self.aux(h.mean((2, 3)))) if self.training else y


class AuxiliaryDict(Plain):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return {"out": y, "aux": y} if self.training else y


class EvaluationTuple(Plain):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y if self.training else (y, self.features(x))


class Named(Plain):
    def forward(self, x: Tensor) -> Any:
        return Pair(super().forward(x), self.features(x))


class InDataclass(Plain):
    def forward(self, x: Tensor) -> Any:
        return Output(super().forward(x))


class Nothing(Plain):
    def forward(self, x: Tensor) -> Any:
        super().forward(x)


class Classes(Plain):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y if self.training else F.one_hot(y.argmax(1), 3)


class Squeezed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class Map(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None, None]


class Detached(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


# Batch sizes


class FixedBatch(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).reshape(5, 72))


class AtMost(Plain):
    def forward(self, x: Tensor) -> Tensor:
        assert len(x) <= 8, "at most 8 images"
        return super().forward(x)


class Length(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).reshape(len(x), 72))


class IntegerLength(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).view(int(x.shape[0]), -1))


class FromShape(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.zeros(x.shape[0], 3)


class Repeated(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.cat([self.fc.bias[None] for _ in range(len(x))])


class OneByOne(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(OneByOne, self).forward(x[i : i + 1])[0] for i in range(x.shape[0])])


# Errors


class _Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        raise ValueError("no gradient today")


class Backward(Plain):
    def forward(self, x: Tensor) -> Any:
        return _Refusing.apply(super().forward(x))


class Later(Plain):
    """Fails in the third step of training."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return {}["key"] if self.steps == 3 else super().forward(x)  # type: ignore[return-value]


class InEvaluation(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.training or len(x) == 1 else x[:, :2])


class Modes(Plain):
    def train(self, mode: bool = True) -> Any:
        raise AttributeError("my own train()")


class Unused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(8, 3)


class SometimesUnused(Plain):
    """Skips a layer from the fourth step on."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped, self.steps = nn.Linear(72, 72), 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        h = self.features(x).flatten(1)
        return self.fc(self.skipped(h) if self.steps < 4 else h)


# Factories


def compiled() -> Any:
    return torch.compile(Plain(), backend="eager")


def parallel() -> Any:
    return nn.DataParallel(Plain())


def averaged() -> Any:
    return torch.optim.swa_utils.AveragedModel(Plain())


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is old
        return torch.jit.trace(Plain(), torch.zeros(2, 3, 8, 8))


def graph() -> Any:
    return torch.fx.symbolic_trace(Plain())


def inner_compiled() -> Any:
    return nn.Sequential(torch.compile(Plain(), backend="eager"))


def with_transform() -> Any:
    return Plain(), {"mean": 0.5}


def class_itself() -> Any:
    return Plain


def half() -> Any:
    return Plain().half()


def without_data() -> Any:
    with torch.device("meta"):
        return Plain()


def in_evaluation_mode() -> Any:
    return Plain().eval()


def lazy() -> Any:
    return nn.Sequential(nn.LazyConv2d(8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def with_phase() -> Any:
    network = Plain()
    network.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return network


def without_layers() -> Any:
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3))


def other_channels() -> Any:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(288, 3))


def other_size() -> Any:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(100, 3))


instance = Plain()
