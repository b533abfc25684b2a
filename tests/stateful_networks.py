"""Small networks with state outside parameters and persistent buffers, as factories."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Decaying(nn.Module):
    """Subtracts a bias that falls at every training step; subclasses say where its factor is kept."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(36, classes)
        self.factor: Any = 1.0

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.decay()
        logits: Tensor = self.fc(self.conv(images).relu().flatten(1) - 2 * (1 - self.now()))
        return logits

    def decay(self) -> None:
        self.factor = self.factor * 0.9

    def now(self) -> Any:
        return self.factor


class Rounded(Decaying):
    """In double precision, and returned in single."""

    def get_extra_state(self) -> Any:
        return torch.tensor(self.factor)

    def set_extra_state(self, state: Any) -> None:
        self.factor = float(state)


class Nested(Rounded):
    def get_extra_state(self) -> Any:
        return {"factor": self.factor, "seen": [(1, None), {2: float("-inf")}], "bytes": b"\x00\xff", True: "yes"}

    def set_extra_state(self, state: Any) -> None:
        assert state["seen"] == [(1, None), {2: float("-inf")}]
        assert state["bytes"] == b"\x00\xff"
        assert state[True] == "yes"
        self.factor = state["factor"]


class Transient(Decaying):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        del self.factor
        self.register_buffer("factor", torch.ones(()), persistent=False)


class Appearing(Transient):
    """A buffer that the first training step makes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.factor = None

    def decay(self) -> None:
        self.factor = torch.ones(1) if self.factor is None else self.factor * 0.9

    def now(self) -> Any:
        return 1 if self.factor is None else self.factor


class Growing(Decaying):
    """A persistent buffer that becomes longer."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        del self.factor
        self.register_buffer("factor", torch.ones(1))

    def decay(self) -> None:
        self.factor = torch.cat([self.factor, self.factor[-1:] * 0.9])[-3:]

    def now(self) -> Any:
        return self.factor[-1]


class OfASet(Rounded):
    def get_extra_state(self) -> Any:
        return {"ones": [{1, 2}]}


class OnlyReturning(Decaying):
    def get_extra_state(self) -> Any:
        return 1


class Forgetting(Rounded):
    calls = 0

    def get_extra_state(self) -> Any:
        self.calls += 1
        return self.calls


class Failing(Rounded):
    def get_extra_state(self) -> Any:
        raise KeyError("factor")


class OfAParametersShape(Rounded):
    def get_extra_state(self) -> Any:
        return self.conv.weight.detach().to_sparse()
