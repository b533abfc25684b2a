"""What the analysis of a network gathers on its way, operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from torch.fx import Node

from granet.coupling.features import PINNED, Feature, Flags, Ties, Values
from granet.coupling.tracing import Trace


@dataclass(frozen=True)
class CoupledLayer:
    """How a weight joins inputs to outputs: [out, in / groups, ...], or transposed [in, out / groups, ...]."""

    weight: str
    groups: int
    transposed: bool

    def width(self, shape: tuple[int, ...], *, rows: int) -> tuple[int, int]:
        """Inputs and outputs of a weight of this shape, which had so many ``rows`` when it had all its groups."""
        groups = shape[0] * self.groups // rows if self.groups > 1 else 1
        sides = (shape[0], shape[1] * groups)
        return sides if self.transposed else sides[::-1]


@dataclass(frozen=True, eq=False)
class Fold:
    """Inputs of a layer that are constant, and what they add to its outputs.

    ``columns`` int64 are indices into dimension ``dimension`` of ``weight``, whose entries there become zero.
    ``addition`` float64 [outputs] is added to the tensor ``into``, if there is any to add.
    """

    weight: str
    dimension: int
    columns: Tensor
    into: str | None
    addition: Tensor


@dataclass(eq=False)
class Analysis:
    """What is known of a traced network so far."""

    trace: Trace
    ties: Ties = field(default_factory=Ties)
    features: dict[Node, Feature] = field(default_factory=dict)
    """The tensors whose channels are told apart."""
    tape: list[Callable[[], None]] = field(default_factory=list)
    """For each operator, in order: pass on what is needed of its result to its arguments."""
    layers: dict[str, CoupledLayer] = field(default_factory=dict)
    """Convolutions and linear layers by the name of their weight, in the order of first use."""
    folds: list[Fold] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)
    """Operators that need all channels of tensors whose channels could be told apart otherwise."""
    stuck: Counter[str] = field(default_factory=Counter)
    """Constant inputs of layers that cannot be folded, by the reason."""

    def hold(self, node: Node) -> bool:
        """Makes all channels of a tensor needed, and stay; returns whether they were told apart."""
        if node in self.trace.names:
            name = self.trace.names[node]
            for dimension, size in enumerate(self.trace.tensors[name].shape):
                self.ties.bind(name, dimension, np.full(size, PINNED, np.int64))
        feature = self.features.get(node)
        if feature is None:
            return False
        self.ties.pin(feature.slots)
        feature.needed[:] = True
        return True

    def along(self, node: Node, axis: int) -> Feature:
        """The tensor with its channels told apart along ``axis``; all of them are held when they are not so far."""
        feature = self.features.get(node)
        if feature is not None and feature.axis == axis:
            return feature
        self.hold(node)
        return Feature.unknown(axis, self.trace.shape(node)[axis])

    def name(self, node: object) -> str | None:
        """The name of a parameter or buffer that nothing writes to."""
        return self.trace.names.get(node) if isinstance(node, Node) and node not in self.trace.opaque else None

    def value(self, name: str) -> Values:
        """A parameter or buffer as float64."""
        values: Values = self.trace.tensors[name].detach().double().cpu().numpy()
        return values

    def through(
        self, source: Feature, constant: Values, *, axis: int | None = None, where: Flags | None = None
    ) -> Feature:
        """A tensor with the channels of ``source``, each of which needs its counterpart (``where`` it is True)."""
        result = Feature(source.axis if axis is None else axis, source.slots, constant)

        def needs() -> None:
            source.needed |= result.needed if where is None else result.needed & where

        self.tape.append(needs)
        return result


Rule = Callable[[Analysis, Node], Feature | None]
"""What an operator makes of its arguments; None when nothing is known of it, after which all of them are held."""
