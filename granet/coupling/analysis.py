"""The state of an analysis: what the rules of operators have found out so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from granet.coupling.channels import KEPT, Channels, Coupling, FeatureMap, Flags, Values
from granet.coupling.tracing import Trace, arguments
from granet.layers.axes import WeightAxes

Liveness = Callable[[Flags], Flags]
"""From the live channels of an operator's result to those of one of its arguments."""


@dataclass(frozen=True)
class CoupledLayer:
    """A convolution or linear layer, by the name of its weight."""

    weight: str
    axes: WeightAxes

    def width(self, shape: tuple[int, ...], *, rows: int) -> tuple[int, int]:
        """Return inputs and outputs of a weight of this shape, which had ``rows`` rows when it had all its groups."""
        groups = shape[0] * self.axes.groups // rows if self.axes.groups > 1 else 1
        return replace(self.axes, groups=groups).channels(shape)


@dataclass(frozen=True, eq=False)
class ConstantFold:
    """Constant inputs of a layer, and what they add to its outputs.

    Attributes:
        weight: of the layer.
        axis: of the weight's inputs.
        columns: int64, the constant inputs; their weights become zero.
        into: the bias or running mean that takes the addition; None when there is nothing to add.
        addition: float64 [outputs].
    """

    weight: str
    axis: int
    columns: Tensor
    into: str | None
    addition: Tensor


@dataclass(eq=False)
class Analysis:
    """The channels of a traced network, as far as they could be followed.

    Attributes:
        trace: the network.
        coupling: of its channels.
        features: activations by node, where the channels can be followed.
        layers: convolutions and linear layers by the name of their weight, in the order of first use.
        folds: constants that can move into a bias.
        unfoldable: constant inputs of layers that cannot, by the reason.
        unknown: operators without a rule, to which channels were followed.
    """

    trace: Trace
    coupling: Coupling = field(default_factory=Coupling)
    features: dict[Node, FeatureMap] = field(default_factory=dict)
    layers: dict[str, CoupledLayer] = field(default_factory=dict)
    folds: list[ConstantFold] = field(default_factory=list)
    unfoldable: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    _uses: list[tuple[FeatureMap, FeatureMap, Liveness]] = field(default_factory=list)

    def keep_all(self, node: Node) -> bool:
        """Mark all channels of a tensor as live and not removable; return whether they had been followed so far."""
        if node in self.trace.names:
            name = self.trace.names[node]
            for axis, size in enumerate(self.trace.tensors[name].shape):
                self.coupling.couple_axis(name, axis, np.full(size, KEPT, np.int64))
        feature = self.features.get(node)
        if feature is None:
            return False
        self.coupling.keep(feature.channels)
        feature.live[:] = True
        return True

    def feature(self, node: Node, axis: int) -> FeatureMap:
        """Return the activation with channels along ``axis``; where they lie elsewhere, all of them are kept."""
        feature = self.features.get(node)
        if feature is not None and feature.axis == axis:
            return feature
        self.keep_all(node)
        return FeatureMap.unknown(axis, self.trace.shape(node)[axis])

    def name(self, node: object) -> str | None:
        """Return the name of a parameter or buffer that no operator writes to; None for anything else."""
        return self.trace.names.get(node) if isinstance(node, Node) and node not in self.trace.opaque else None

    def value(self, name: str) -> Values:
        """Return a parameter or buffer as float64."""
        values: Values = self.trace.tensors[name].detach().double().cpu().numpy()
        return values

    def result(
        self, axis: int, channels: Channels, constant: Values, *arguments: tuple[FeatureMap, Liveness]
    ) -> FeatureMap:
        """Make an operator's feature map; record how live channels of the result make those of each argument live."""
        result = FeatureMap(axis, channels, constant)
        self._uses += [(result, argument, liveness) for argument, liveness in arguments]
        return result

    def channelwise(
        self, source: FeatureMap, constant: Values, *, axis: int | None = None, where: Flags | None = None
    ) -> FeatureMap:
        """Return a result whose channels depend on the same channels of ``source``, those in ``where`` if given."""
        return self.result(
            source.axis if axis is None else axis,
            source.channels,
            constant,
            (source, lambda live: live if where is None else live & where),
        )

    def propagate_liveness(self) -> None:
        """Go back from the outputs, and mark every channel that a live one depends on."""
        for result, argument, liveness in reversed(self._uses):
            argument.live |= liveness(result.live)


Rule = Callable[[Analysis, Node], FeatureMap | None]
"""The effect of an operator on channels; None when it is not understood, after which all its arguments are kept."""


def unary(rule: Callable[[Analysis, Node, FeatureMap, dict[str, Any]], FeatureMap | None]) -> Rule:
    """Decorate a rule that needs only the feature map of the operator's first input and its arguments by name."""

    def applied(analysis: Analysis, node: Node) -> FeatureMap | None:
        source = analysis.features.get(node.all_input_nodes[0])
        return None if source is None else rule(analysis, node, source, arguments(node))

    return applied
