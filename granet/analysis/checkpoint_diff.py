"""Two checkpoints of one network compared: where their masks agree, what moved, how the weights changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from granet.analysis.inspection import Inspection, inspect, newest_validation_accuracy
from granet.analysis.json_values import json_value
from granet.checkpoint import Checkpoint
from granet.errors import UsageError, listing


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How the masks and weights of a layer, or of all layers together, differ between the first and the second."""

    parameters: int
    first_active: int
    second_active: int
    common: int
    """Active in both."""
    regrown: int
    """Of those active in the second alone, the number that the first had had active at some time."""
    flipped: int
    """Common weights whose sign is the opposite. Zeros have none."""
    squared_difference: float
    """Of all weights, active or not."""
    squared_norm: float
    """Of the weights of the first."""

    @classmethod
    def total(cls, overlaps: Iterable[Overlap]) -> Overlap:
        """Add up the counts and squares of several layers."""
        found = list(overlaps)
        return cls(**{field.name: sum(getattr(overlap, field.name) for overlap in found) for field in fields(cls)})

    @property
    def active(self) -> tuple[int, int]:
        """Active weights of the first and of the second."""
        return self.first_active, self.second_active

    @property
    def lost(self) -> int:
        """Active in the first alone."""
        return self.first_active - self.common

    @property
    def grown(self) -> int:
        """Active in the second alone."""
        return self.second_active - self.common

    @property
    def moved(self) -> int:
        """Weights that were replaced by as many others: the lesser of lost and grown."""
        return min(self.lost, self.grown)

    @property
    def iou(self) -> float:
        """Intersection over union of the masks: 1 where they are the same, 0 where they have nothing in common."""
        union = sum(self.active) - self.common
        return self.common / union if union else 1.0

    @property
    def density(self) -> tuple[float, float]:
        """Active over all weights, of the first and of the second."""
        parameters = self.parameters or 1
        return self.first_active / parameters, self.second_active / parameters

    @property
    def change(self) -> float | None:
        """Norm of the difference of all weights over that of the first; None where all of the first are zero."""
        return math.sqrt(self.squared_difference / self.squared_norm) if self.squared_norm else None

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        counts = ("parameters", "active", "common", "regrown", "flipped", "change", "lost", "grown", "moved", "iou")
        return {key: json_value(getattr(self, key)) for key in (*counts, "density")}


@dataclass(frozen=True, kw_only=True)
class InspectedCheckpoint:
    """One of the two checkpoints, and the size of its file in bytes."""

    path: str
    bytes: int
    checkpoint: Checkpoint
    report: Inspection

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, path: str, bytes: int, factory: str | None = None) -> InspectedCheckpoint:
        """Inspect ``checkpoint``; ``factory`` as for ``inspect``."""
        return cls(path=path, bytes=bytes, checkpoint=checkpoint, report=inspect(checkpoint, factory=factory))

    @property
    def accuracies(self) -> dict[str, float | None]:
        """Newest validation, best validation and test accuracy, 0 to 1; None where it is not known."""
        return {
            "validation": newest_validation_accuracy(self.report.metrics),
            "best_validation": self.report.best_validation_accuracy,
            "test": self.report.test_accuracy,
        }

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries and numbers."""
        keys = ("recipe", "method", "model", "data", "seed", "step", "total_steps", "epoch", "active", "density")
        return {
            "path": self.path,
            "bytes": self.bytes,
            "content_hash": self.checkpoint.content_hash,
            **{key: getattr(self.report, key) for key in keys},
            "accuracy": self.accuracies,
            "flops": json_value(self.report.flops),
        }


@dataclass(frozen=True, kw_only=True)
class ChangedSetting:
    """A setting that differs, by its dotted key; None where it is not set."""

    key: str
    first: object
    second: object


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that ``granet diff`` shows."""

    sides: tuple[InspectedCheckpoint, InspectedCheckpoint]
    total: Overlap
    """All masked layers together."""
    layers: Mapping[str, Overlap]
    """By the name of the weight, in the order of the network."""
    unmasked: Overlap
    """All parameters that neither masks: biases, norms, layers kept dense."""
    settings: tuple[ChangedSetting, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both are the same state, bit for bit."""
        return self.sides[0].checkpoint.content_hash == self.sides[1].checkpoint.content_hash

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {
            "same": self.same,
            "first": self.sides[0].as_json(),
            "second": self.sides[1].as_json(),
            "total": self.total.as_json(),
            "layers": [{"name": name, **overlap.as_json()} for name, overlap in self.layers.items()],
            "unmasked": {key: getattr(self.unmasked, key) for key in ("parameters", "flipped", "change")},
            "settings": json_value(self.settings),
            "notes": list(self.notes),
        }


def diff(first: InspectedCheckpoint, second: InspectedCheckpoint) -> Difference:
    """Compare two checkpoints of one network. A layer that one of them does not mask is fully active there.

    Raises:
        UsageError: the checkpoints are of different networks.
    """
    one, other = first.checkpoint, second.checkpoint
    _check_same_network(first, second)
    overlaps = {name: _overlap(name, one, other) for name in one.weights}
    layers = {name: overlap for name, overlap in overlaps.items() if name in one.masks or name in other.masks}
    return Difference(
        sides=(first, second),
        total=Overlap.total(layers.values()),
        layers=layers,
        unmasked=Overlap.total(overlap for name, overlap in overlaps.items() if name not in layers),
        settings=tuple(ChangedSetting(key=k, first=a, second=b) for k, a, b in one.recipe.differences(other.recipe)),
        notes=tuple(
            f"{side.path} has no mask for {listing(missing)}: all of it counts as active"
            for side in (first, second)
            if (missing := [name for name in layers if name not in side.checkpoint.masks])
        ),
    )


def _check_same_network(first: InspectedCheckpoint, second: InspectedCheckpoint) -> None:
    shapes = [{n: tuple(w.shape) for n, w in side.checkpoint.weights.items()} for side in (first, second)]
    for name in {**shapes[0], **shapes[1]}:
        mine, theirs = (shape.get(name, "no such parameter") for shape in shapes)
        if mine != theirs:
            raise UsageError(
                "the checkpoints are of different networks",
                where=name,
                got=f"{mine} in {first.path}, {theirs} in {second.path}",
            )


def _overlap(name: str, one: Checkpoint, other: Checkpoint) -> Overlap:
    mine, theirs = one.weights[name].double(), other.weights[name].double()
    before, after = _mask(one, name), _mask(other, name)
    both = before & after
    return Overlap(
        parameters=mine.numel(),
        first_active=int(before.sum()),
        second_active=int(after.sum()),
        common=int(both.sum()),
        regrown=int((after & ~before & one.explored.get(name, before)).sum()),
        flipped=int((both & (mine.sign() * theirs.sign() < 0)).sum()),
        squared_difference=float((theirs - mine).square().sum()),
        squared_norm=float(mine.square().sum()),
    )


def _mask(checkpoint: Checkpoint, name: str) -> Tensor:
    mask = checkpoint.masks.get(name)
    return torch.ones_like(checkpoint.weights[name], dtype=torch.bool) if mask is None else mask
