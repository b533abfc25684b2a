"""Rules for convolutions and linear layers, and folding of their constant inputs.

A constant input adds a constant to every output: its value times the sum of the weights that it meets. That can move
into the bias of the layer, or into the running mean of the batch norm that alone reads it, after which the weights are
zero and the input is dead. It is exact unless the layer pads: next to a border some weights meet the padding's zeros.
A constant zero adds nothing, with or without padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from granet.coupling.analysis import Analysis, ConstantFold, CoupledLayer
from granet.coupling.channels import FeatureMap, Flags, Values
from granet.coupling.tracing import arguments, operation
from granet.layers.axes import WeightAxes


def contraction(analysis: Analysis, node: Node) -> FeatureMap | None:
    """Return the output of a convolution or linear layer whose weight is a parameter."""
    given = arguments(node)
    weight, bias = analysis.name(given["weight"]), analysis.name(given["bias"])
    if weight is None or (bias is None and given["bias"] is not None):
        return None
    axes = WeightAxes(given.get("groups", 1), "transpose" in operation(node))
    layer = CoupledLayer(weight, axes)
    analysis.layers.setdefault(weight, layer)
    values = analysis.trace.tensors[weight].detach()
    if axes.groups > 1 and (axes.transposed or not _runs_as_module(analysis, node, layer)):
        return None
    rank = len(analysis.trace.shape(node))
    axis = rank - 1 if operation(node) == "linear" else rank - values.ndim + 1
    source = analysis.feature(given["input"], axis)
    links = axes.links(values != 0).cpu()
    groups, outputs, _ = links.shape
    if groups > 1:
        # All inputs and outputs of a group are coupled, so that groups keep their size.
        inputs = source.channels.reshape(groups, -1)
        for column in inputs.T[1:]:
            analysis.coupling.couple(inputs[:, 0], column)
        rows = inputs[:, 0].repeat(outputs)
        analysis.coupling.couple_axis(weight, 0, rows)
    else:
        rows = analysis.coupling.of_axis(weight, axes.outputs, outputs)
        analysis.coupling.couple_axis(weight, axes.inputs, source.channels)
    if bias is not None:
        analysis.coupling.couple_axis(bias, 0, rows)

    exact = np.equal(source.constant, 0.0) | (np.isfinite(source.constant) & (not _pads(given, layer, values)))
    sums = _contributions(values, layer, np.where(exact, source.constant, 0.0))
    varies = (links & ~torch.from_numpy(exact).reshape(groups, 1, -1)).any(2).reshape(-1).numpy()
    shift = np.zeros(rows.size) if bias is None else analysis.value(bias)

    foldable = np.zeros(source.size, np.bool_)
    if groups == 1:
        foldable = _fold(analysis, node, layer, source, exact, sums)
        stuck = np.isfinite(source.constant) & links.any(1).reshape(-1).numpy() & ~foldable
        analysis.unfoldable[_obstacle(analysis, given, layer)] += int(stuck.sum())
    links &= ~torch.from_numpy(foldable).reshape(groups, 1, -1)

    def liveness(live: Flags) -> Flags:
        inputs: Flags = (links & torch.from_numpy(live).reshape(groups, outputs, 1)).any(1).reshape(-1).numpy()
        return inputs

    return analysis.result(axis, rows, np.where(varies, np.nan, shift + sums), (source, liveness))


def _contributions(values: Tensor, layer: CoupledLayer, constant: Values) -> Values:
    """Return what constant inputs add to the outputs: float64 [outputs]. Inputs of zero are skipped."""
    if layer.axes.transposed or not constant.any():
        return np.zeros(values.shape[layer.axes.outputs])
    inputs = torch.from_numpy(constant)
    if layer.axes.groups == 1:  # the usual case: few columns of a large weight
        columns = inputs.nonzero().flatten()
        values, inputs = values[:, columns.to(values.device)], inputs[columns]
    sums = values.double().cpu().reshape(*values.shape[:2], -1).sum(2).reshape(layer.axes.groups, -1, values.shape[1])
    total: Values = (sums @ inputs.reshape(layer.axes.groups, -1, 1)).flatten().numpy()
    return total


def _fold(analysis: Analysis, node: Node, layer: CoupledLayer, source: FeatureMap, exact: Flags, sums: Values) -> Flags:
    """Fold the inputs for which that is ``exact`` and possible, and return which: bool [inputs]."""
    if analysis.trace.uses[layer.weight] > 1:
        return np.zeros(source.size, np.bool_)
    into, sign = _fold_target(analysis, node)
    if into is None or analysis.trace.tensors[layer.weight].itemsize < 4:  # half precision would round the bias visibly
        into, exact, sums = None, exact & (source.constant == 0.0), np.zeros_like(sums)
    if exact.any():
        columns, addition = torch.from_numpy(exact).nonzero().flatten(), torch.from_numpy(sign * sums)
        analysis.folds.append(ConstantFold(layer.weight, layer.axes.inputs, columns, into, addition))
    return exact


def _fold_target(analysis: Analysis, node: Node) -> tuple[str | None, float]:
    """Return the bias or running mean that belongs to this use of the layer alone, and the sign of additions."""
    bias = analysis.name(arguments(node)["bias"])
    if bias is not None and analysis.trace.uses[bias] == 1:
        return bias, 1.0
    reader = next(iter(node.users), None)
    if (
        len(node.users) == 1
        and reader is not None
        and operation(reader) == "batch_norm"
        and reader not in analysis.trace.opaque
    ):
        given = arguments(reader)
        mean = analysis.name(given["running_mean"])
        if given["input"] is node and not given["training"] and mean is not None and analysis.trace.uses[mean] == 1:
            return mean, -1.0
    return None, 0.0


def _obstacle(analysis: Analysis, given: dict[str, Any], layer: CoupledLayer) -> str:
    """Return why constants other than zero cannot be folded."""
    values = analysis.trace.tensors[layer.weight]
    if _pads(given, layer, values):
        return "a layer that pads"
    if analysis.trace.uses[layer.weight] > 1:
        return "a layer that runs more than once"
    return "a layer in half precision" if values.itemsize < 4 else "a layer without a bias or batch norm to fold into"


def _pads(given: dict[str, Any], layer: CoupledLayer, values: Tensor) -> bool:
    """Return whether some outputs read less of an input than others."""
    padding = given.get("padding", 0)
    if layer.axes.transposed:
        return True
    if isinstance(padding, str):
        return padding != "valid" and max(values.shape[2:]) > 1
    return any(padding) if isinstance(padding, list | tuple) else padding != 0


def _runs_as_module(analysis: Analysis, node: Node, layer: CoupledLayer) -> bool:
    """Return whether the number of groups is a module's, which can be changed, and not one in a forward pass."""
    module = analysis.trace.module(node)
    own = type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return own and module._parameters["weight"] is analysis.trace.tensors[layer.weight]  # type: ignore[union-attr]
