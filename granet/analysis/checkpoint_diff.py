"""Two checkpoints of one network, side by side: where their masks agree, what moved, what the weights did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from granet.analysis.inspection import Inspection, inspect
from granet.checkpoint import Checkpoint
from granet.errors import UsageError, listing


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How the masks and weights of a layer, or of all layers together, differ between the first and the second."""

    parameters: int
    active: tuple[int, int]
    """Active weights of the first and of the second."""
    common: int
    """Active in both."""
    regrown: int
    """Of those active in the second alone: how many the first had had active at some time, too."""
    flipped: int
    """Common weights whose sign is the opposite. Zeros have none."""
    change: float | None
    """The norm of the difference of all weights over that of the first; None where the first has but zeros."""

    @property
    def lost(self) -> int:
        """Active in the first alone."""
        return self.active[0] - self.common

    @property
    def grown(self) -> int:
        """Active in the second alone."""
        return self.active[1] - self.common

    @property
    def moved(self) -> int:
        """Weights that are as many but elsewhere: the lesser of lost and grown."""
        return min(self.lost, self.grown)

    @property
    def iou(self) -> float:
        """Intersection over union of the masks: 1 where they are the same, 0 where they have nothing in common."""
        union = sum(self.active) - self.common
        return self.common / union if union else 1.0

    @property
    def densities(self) -> tuple[float, float]:
        """Active over all weights, of the first and of the second."""
        whole = self.parameters or 1
        return self.active[0] / whole, self.active[1] / whole

    def as_json(self) -> dict[str, Any]:
        """The same as plain numbers and lists."""
        derived = {key: getattr(self, key) for key in ("lost", "grown", "moved", "iou")}
        whole = asdict(self) | derived
        return whole | {"active": list(self.active), "density": list(self.densities)}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two checkpoints."""

    path: str
    bytes: int
    content_hash: str
    report: Inspection

    @property
    def accuracies(self) -> dict[str, float | None]:
        """Best validation, newest validation and test accuracy, 0 to 1; None where it is not known."""
        epochs = self.report.metrics.get("epochs")
        newest = epochs[-1] if isinstance(epochs, list) and epochs else None
        accuracy = newest.get("validation_accuracy") if isinstance(newest, dict) else None
        return {
            "validation": accuracy if isinstance(accuracy, int | float) else None,
            "best_validation": self.report.best_validation_accuracy,
            "test": self.report.test_accuracy,
        }

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        report = self.report
        keys = ("recipe", "method", "model", "data", "seed", "step", "total_steps", "epoch", "active", "density")
        return {
            "path": self.path,
            "bytes": self.bytes,
            "content_hash": self.content_hash,
            **{key: getattr(report, key) for key in keys},
            "accuracy": self.accuracies,
            "flops": None if report.flops is None else dict(report.flops),
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that ``granet diff`` shows."""

    sides: tuple[Side, Side]
    total: Overlap
    """All masked layers together."""
    layers: Mapping[str, Overlap]
    """By the name of the weight, in the order of the network."""
    unmasked: Overlap
    """All parameters that neither masks: biases, norms, layers kept dense."""
    settings: tuple[tuple[str, object, object], ...]
    """What is set differently: dotted key, in the first, in the second; None where it is not set."""
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both are the same state, bit for bit."""
        return self.sides[0].content_hash == self.sides[1].content_hash

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return {
            "same": self.same,
            "first": self.sides[0].as_json(),
            "second": self.sides[1].as_json(),
            "total": self.total.as_json(),
            "layers": [{"name": name, **overlap.as_json()} for name, overlap in self.layers.items()],
            "unmasked": {key: self.unmasked.as_json()[key] for key in ("parameters", "flipped", "change")},
            "settings": [{"key": key, "first": one, "second": other} for key, one, other in self.settings],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class DiffSource:
    """A checkpoint with what is known of its file. ``factory``: see ``inspect``."""

    path: str
    bytes: int
    checkpoint: Checkpoint
    factory: str | None = None


def compare(first: DiffSource, second: DiffSource) -> Difference:
    """What the second has become, seen from the first. A layer that one of them does not mask is wholly active there.

    Raises:
        UsageError: the checkpoints are of different networks.
    """
    one, other = first.checkpoint, second.checkpoint
    _check_alike(first, second)
    masked = [name for name in one.weights if name in one.masks or name in other.masks]
    layers, squares = {}, {}
    for name in masked:
        layers[name], squares[name] = _overlap(name, one, other)
    rest = [_overlap(name, one, other) for name in one.weights if name not in layers]
    return Difference(
        sides=(_side(first), _side(second)),
        total=_together(list(layers.values()), list(squares.values())),
        layers=layers,
        unmasked=_together([overlap for overlap, _ in rest], [found for _, found in rest]),
        settings=tuple(one.recipe.differences(other.recipe)),
        notes=_notes(first, second, masked),
    )


def _side(source: DiffSource) -> Side:
    report = inspect(source.checkpoint, factory=source.factory)
    return Side(path=source.path, bytes=source.bytes, content_hash=source.checkpoint.content_hash, report=report)


def _check_alike(first: DiffSource, second: DiffSource) -> None:
    shapes = [{n: tuple(w.shape) for n, w in source.checkpoint.weights.items()} for source in (first, second)]
    for name in {**shapes[0], **shapes[1]}:
        mine, theirs = (shape.get(name, "no such parameter") for shape in shapes)
        if mine != theirs:
            raise UsageError(
                "the checkpoints are of different networks",
                where=name,
                got=f"{mine} in {first.path}, {theirs} in {second.path}",
            )


def _notes(first: DiffSource, second: DiffSource, masked: list[str]) -> tuple[str, ...]:
    notes = []
    for source in (first, second):
        missing = [name for name in masked if name not in source.checkpoint.masks]
        if missing:
            notes.append(f"{source.path} has no mask for {listing(missing)}: all of it counts as active")
    return tuple(notes)


def _overlap(name: str, one: Checkpoint, other: Checkpoint) -> tuple[Overlap, tuple[float, float]]:
    """The overlap of a parameter, and the squared norms of its difference and of the first."""
    weights = (one.weights[name], other.weights[name])
    masks = [_mask(checkpoint, name) for checkpoint in (one, other)]
    explored = one.explored.get(name, masks[0])
    both = masks[0] & masks[1]
    values = [weight.double() for weight in weights]
    squares = (float((values[1] - values[0]).square().sum()), float(values[0].square().sum()))
    overlap = Overlap(
        parameters=weights[0].numel(),
        active=(int(masks[0].sum()), int(masks[1].sum())),
        common=int(both.sum()),
        regrown=int((masks[1] & ~masks[0] & explored).sum()),
        flipped=int((both & (values[0].sign() * values[1].sign() < 0)).sum()),
        change=_relative(*squares),
    )
    return overlap, squares


def _mask(checkpoint: Checkpoint, name: str) -> Tensor:
    mask = checkpoint.masks.get(name)
    return torch.ones_like(checkpoint.weights[name], dtype=torch.bool) if mask is None else mask


def _together(overlaps: list[Overlap], squares: list[tuple[float, float]]) -> Overlap:
    empty = Overlap(parameters=0, active=(0, 0), common=0, regrown=0, flipped=0, change=None)
    for overlap in overlaps:
        empty = replace(
            empty,
            parameters=empty.parameters + overlap.parameters,
            active=(empty.active[0] + overlap.active[0], empty.active[1] + overlap.active[1]),
            common=empty.common + overlap.common,
            regrown=empty.regrown + overlap.regrown,
            flipped=empty.flipped + overlap.flipped,
        )
    change = _relative(sum(square for square, _ in squares), sum(square for _, square in squares))
    return replace(empty, change=change)


def _relative(difference: float, first: float) -> float | None:
    return math.sqrt(difference / first) if first else None
