"""The groups of coupled channels of a network."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from torch import Tensor, nn

from granet.coupling.channels import KEPT
from granet.coupling.operators import analyse
from granet.coupling.tracing import trace


class CoupledSlice(NamedTuple):
    """Indices along an axis of a parameter or buffer."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


def coupled_channels(model: nn.Module, example: tuple[Tensor, ...]) -> list[tuple[CoupledSlice, ...]]:
    """Return the groups of channels of a network that can only be removed, or masked, together.

    A group is the slices of all parameters and buffers that belong to it: the row of the weight that computes a
    channel, its bias and batch norm, and the columns of the weights that read it. Channels that cannot be removed are
    in no group: inputs and outputs of the network, and what an operator without a rule reads. Groups depend on the
    operators alone, not on the values of weights, and share no index.

    Args:
        model: any network that ``torch.export`` takes; it is traced in evaluation mode, and left as it is.
        example: the arguments of one forward pass, on the device of the network. Their values do not matter.

    Raises:
        ModelError: the network cannot be traced.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        coupling = analyse(trace(model.eval(), example)).coupling
    finally:
        for module, training in modes.items():
            module.training = training
    numbers = coupling.groups()
    groups: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for name, axes in coupling.axes.items():
        for axis, channels in axes.items():
            for index, group in enumerate(numbers[channels].tolist()):
                if group != KEPT:
                    groups[group][name, axis].append(index)
    return [
        tuple(CoupledSlice(name, axis, tuple(indices)) for (name, axis), indices in slices.items())
        for slices in groups.values()
    ]
