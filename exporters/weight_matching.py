"""Match initializers of a graph with weights of the checkpoint, and check them.

An exported weight must be zero where its mask is not active, and may be zero where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from granet.errors import ModelError

Array = NDArray[Any]

_GATES = ((0,), (1, 0, 2), (0, 3, 1, 2))
"""The gates of torch's recurrent layers, GRUs and LSTMs in the order in which ONNX has them."""


@dataclass(frozen=True)
class GraphWeight:
    """A weight of the network in the graph.

    Attributes:
        name: of the parameter; of several in one tensor, as the directions of a recurrent layer, the first.
        tensor: name of the initializer: that of the parameter, unless the exporter transposed it.
        parameters: how many weights it has.
        active: how many of them are active in the mask, all without a mask.
        nonzero: how many are not zero, at most ``active``.
        masked: whether it has a mask.
    """

    name: str
    tensor: str
    parameters: int
    active: int
    nonzero: int
    masked: bool


def match(
    graph: ir.Graph,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    *,
    unused: Collection[str] = (),
    constant: Collection[str] = (),
) -> tuple[GraphWeight, ...]:
    """Find the network's weights of two and more dimensions in the graph, and compare them with their masks.

    A weight is the initializer of its name and shape. The exporter may transpose one and drop its name; that is found
    by its values. So are weights of recurrent layers, which ONNX stacks.

    Batch norms are folded in the graph. Parameters without a mask are active throughout; ``unused`` ones are not in
    the graph. Those of layers that see no input, ``constant``, may be: the exporter replaces small results by their
    values.

    Raises:
        ModelError: a masked weight that is not in the graph, or not zero where it is inactive.
    """
    stored = {
        name: value.const_value.numpy()
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    }
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    weights = []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or name in unused:
            continue
        values, mask = parameter.detach(), masks.get(name)
        support = _as_numpy(values != 0 if mask is None else mask)
        # Zeros alone could be anything, which matters where the weight may not be there.
        by_value = name not in constant or bool(values.any())
        found = _find(stored, names[id(parameter)], _as_numpy(values), support, by_value=by_value)
        if found is None and (mask is None or name in constant):
            continue
        if found is None:
            raise ModelError(
                "a masked weight is not in the exported graph",
                where=name,
                remedy="the network computes something from it that the exporter replaced by its result; let the layer "
                "use its weight as it is",
            )
        tensor, exported, allowed = found
        nonzero = int(np.count_nonzero(exported))
        if mask is not None and (inactive := np.count_nonzero(exported[~allowed])):
            raise ModelError(
                "an exported weight is not zero where it is inactive",
                where=name,
                got=f"{nonzero} weights that are not zero, {inactive} of them inactive",
                expected=f"at most the {np.count_nonzero(allowed)} active ones",
            )
        active = values.numel() if mask is None else int(np.count_nonzero(support))
        weights.append(GraphWeight(name, tensor, values.numel(), active, nonzero, mask is not None))
    return _merged(weights)


def nonzero(graph: onnx.GraphProto, names: Collection[str]) -> int:
    """Count the values of the initializers ``names`` that are not zero."""
    tensors = (numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in names)
    return sum(int(np.count_nonzero(values)) for values in tensors)


def _as_numpy(tensor: Tensor) -> Array:
    """Return the tensor as an array on the CPU, bfloat16 as float32 because NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _find(
    stored: Mapping[str, Array], names: Collection[str], values: Array, support: Array, *, by_value: bool
) -> tuple[str, Array, Array] | None:
    """The initializer that holds a weight: its name, its values, and ``support`` in its layout."""
    for name in names:
        if name in stored and stored[name].shape == values.shape:
            return name, stored[name], support
    for name, candidate in stored.items() if by_value else ():
        for axes in permutations(range(values.ndim)):
            transposed = values.transpose(axes)
            fits = transposed.squeeze().shape == candidate.squeeze().shape
            if fits and np.array_equal(candidate, transposed.reshape(candidate.shape)):
                return name, candidate, support.transpose(axes).reshape(candidate.shape)
    return _find_gates(stored, values, support)


def _find_gates(stored: Mapping[str, Array], values: Array, support: Array) -> tuple[str, Array, Array] | None:
    """Find a weight of a recurrent layer: an operator stacks both directions, with gates in an order of its own."""
    for gates in _GATES if values.ndim == 2 else ():
        if len(values) % len(gates):
            continue
        rows = np.arange(len(values)).reshape(len(gates), -1)[[*gates]].reshape(-1)
        for name, candidate in stored.items():
            for direction in candidate if candidate.ndim == 3 and candidate.shape[1:] == values.shape else ():
                if np.array_equal(direction, values[rows]):
                    return name, direction, support[rows]
    return None


def _merged(weights: Sequence[GraphWeight]) -> tuple[GraphWeight, ...]:
    """Return the weights with those that one tensor holds as one, under the name of the first."""
    found: dict[str, GraphWeight] = {}
    for weight in weights:
        first = found.get(weight.tensor)
        found[weight.tensor] = (
            weight
            if first is None
            else replace(
                first,
                parameters=first.parameters + weight.parameters,
                active=first.active + weight.active,
                nonzero=first.nonzero + weight.nonzero,
                masked=first.masked or weight.masked,
            )
        )
    return tuple(found.values())
