"""Convolutions and linear layers: which outputs are constant, which inputs they need, which constants they can fold.

An input that is constant adds a constant to every output: its value times the sum of the weights that it meets. That
can move into the bias of the layer, or into the running mean of the batch norm that alone reads it, after which the
weights are zero and the input does not matter. It is exact unless the layer pads: next to a border some weights meet
the padding's zeros. A constant zero needs no place to move to and does not care about padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from granet.coupling.features import Feature, Flags, Values
from granet.coupling.state import Analysis, CoupledLayer, Fold
from granet.coupling.tracing import arguments, operation


def contraction(at: Analysis, node: Node) -> Feature | None:
    """The output of a convolution or linear layer whose weight is a parameter."""
    given = arguments(node)
    weight, bias = at.name(given["weight"]), at.name(given["bias"])
    if weight is None or (bias is None and given["bias"] is not None):
        return None
    layer = CoupledLayer(weight, given.get("groups", 1), "transpose" in operation(node))
    at.layers.setdefault(weight, layer)
    values = at.trace.tensors[weight].detach()
    if layer.groups > 1 and (layer.transposed or not _runs_as_module(at, node, layer)):
        return None
    rank = len(at.trace.shape(node))
    axis = rank - 1 if operation(node) == "linear" else rank - values.ndim + 1
    source = at.along(given["input"], axis)
    links = _links(values, layer)
    groups, outputs, _ = links.shape
    if groups > 1:
        # All inputs and outputs of a group stay or go together, so that groups stay equal.
        slots = source.slots.reshape(groups, -1)
        for column in slots.T[1:]:
            at.ties.tie(slots[:, 0], column)
        rows = slots[:, 0].repeat(outputs)
        at.ties.bind(weight, 0, rows)
    else:
        rows = at.ties.along(weight, int(layer.transposed), outputs)
        at.ties.bind(weight, int(not layer.transposed), source.slots)
    if bias is not None:
        at.ties.bind(bias, 0, rows)

    exact = np.equal(source.constant, 0.0) | (np.isfinite(source.constant) & (not _pads(given, layer, values)))
    sums = _contributions(values, layer, np.where(exact, source.constant, 0.0))
    varies = (links & ~torch.from_numpy(exact).reshape(groups, 1, -1)).any(2).reshape(-1).numpy()
    shift = np.zeros(rows.size) if bias is None else at.value(bias)
    result = Feature(axis, rows, np.where(varies, np.nan, shift + sums))

    foldable = np.zeros(source.size, np.bool_)
    if groups == 1:
        foldable = _fold(at, node, layer, source, exact, sums)
        stuck = np.isfinite(source.constant) & links.any(1).reshape(-1).numpy() & ~foldable
        at.stuck[_obstacle(at, given, layer)] += int(stuck.sum())
    links &= ~torch.from_numpy(foldable).reshape(groups, 1, -1)

    def needs() -> None:
        rows_needed = torch.from_numpy(result.needed).reshape(groups, outputs, 1)
        source.needed |= (links & rows_needed).any(1).reshape(-1).numpy()

    at.tape.append(needs)
    return result


def _links(values: Tensor, layer: CoupledLayer) -> Tensor:
    """Which outputs see which inputs: bool [groups, outputs of a group, inputs of a group]."""
    links = (values != 0).reshape(*values.shape[:2], -1).any(2).cpu()
    return links.T.unsqueeze(0) if layer.transposed else links.reshape(layer.groups, -1, links.shape[1])


def _contributions(values: Tensor, layer: CoupledLayer, constant: Values) -> Values:
    """What inputs of a constant value add to the outputs: float64 [outputs]. Inputs of zero are skipped."""
    if layer.transposed or not constant.any():
        return np.zeros(values.shape[int(layer.transposed)])
    inputs = torch.from_numpy(constant)
    if layer.groups == 1:  # the usual case: few columns of a large weight
        columns = inputs.nonzero().flatten()
        values, inputs = values[:, columns.to(values.device)], inputs[columns]
    sums = values.double().cpu().reshape(*values.shape[:2], -1).sum(2).reshape(layer.groups, -1, values.shape[1])
    total: Values = (sums @ inputs.reshape(layer.groups, -1, 1)).flatten().numpy()
    return total


def _fold(at: Analysis, node: Node, layer: CoupledLayer, source: Feature, exact: Flags, sums: Values) -> Flags:
    """Folds the inputs that can be, and says which: bool [inputs]."""
    nothing, values = np.zeros(source.size, np.bool_), at.trace.tensors[layer.weight]
    if at.trace.uses[layer.weight] > 1 or not exact.any():
        return nothing
    place, sign = _place(at, node)
    if place is None or values.itemsize < 4:  # a bias in half precision would be rounded visibly
        place = None
        exact = exact & (source.constant == 0.0)
        if not exact.any():
            return nothing
        sums = np.zeros_like(sums)
    columns = torch.from_numpy(exact).nonzero().flatten()
    addition = torch.from_numpy(sign * sums)
    at.folds.append(Fold(layer.weight, int(not layer.transposed), columns, place, addition))
    return exact


def _place(at: Analysis, node: Node) -> tuple[str | None, float]:
    """The bias or running mean that belongs to this use of the layer alone, and the sign it wants."""
    bias = at.name(arguments(node)["bias"])
    if bias is not None and at.trace.uses[bias] == 1:
        return bias, 1.0
    reader = next(iter(node.users), None)
    if (
        len(node.users) == 1
        and reader is not None
        and operation(reader) == "batch_norm"
        and reader not in at.trace.opaque
    ):
        given = arguments(reader)
        mean = at.name(given["running_mean"])
        if given["input"] is node and not given["training"] and mean is not None and at.trace.uses[mean] == 1:
            return mean, -1.0
    return None, 0.0


def _obstacle(at: Analysis, given: dict[str, Any], layer: CoupledLayer) -> str:
    """Why constants other than zero cannot be folded."""
    values = at.trace.tensors[layer.weight]
    if _pads(given, layer, values):
        return "a layer that pads"
    if at.trace.uses[layer.weight] > 1:
        return "a layer that runs more than once"
    return "a layer in half precision" if values.itemsize < 4 else "a layer without a bias or batch norm to fold into"


def _pads(given: dict[str, Any], layer: CoupledLayer, values: Tensor) -> bool:
    """Whether some outputs see less of an input than others."""
    padding = given.get("padding", 0)
    if layer.transposed:
        return True
    if isinstance(padding, str):
        return padding != "valid" and max(values.shape[2:]) > 1
    return any(padding) if isinstance(padding, list | tuple) else padding != 0


def _runs_as_module(at: Analysis, node: Node, layer: CoupledLayer) -> bool:
    """Whether the number of groups is that of a module, where it can be changed, and not written in a forward pass."""
    module = at.trace.modules.get(at.trace.layers[node], nn.Identity())
    mine = at.trace.tensors[layer.weight]
    return type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module._parameters["weight"] is mine
