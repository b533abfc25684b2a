"""Rules for operators that work entry by entry or channel by channel: activations, arithmetic, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from granet.coupling.analysis import Analysis, unary
from granet.coupling.channels import FeatureMap, Values
from granet.coupling.tracing import operation


def evaluated(node: Node, values: Mapping[Node, Values]) -> Values:
    """Return what an elementwise operator gives for constants."""
    tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: tensors[argument])
    result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return result.numpy()


@unary
def identity(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Copies and views of the whole tensor, and dropout that is off."""
    changes = analysis.trace.dtype(node.all_input_nodes[0]) != analysis.trace.dtype(node)
    if changes or given.get("train", False):
        return None
    return analysis.channelwise(source, source.constant)


def elementwise(analysis: Analysis, node: Node) -> FeatureMap | None:
    """A function of one tensor, entry by entry."""
    if len(node.all_input_nodes) != 1 or (source := analysis.features.get(node.all_input_nodes[0])) is None:
        return None
    return analysis.channelwise(source, evaluated(node, {node.all_input_nodes[0]: source.constant}))


def binary(analysis: Analysis, node: Node) -> FeatureMap | None:
    """A function of two tensors, entry by entry, with broadcasting."""
    if len(node.all_input_nodes) == 1:
        return elementwise(analysis, node)
    known = [argument for argument in node.all_input_nodes if argument in analysis.features]
    # A dead channel may have any value: divided by, it could be infinite, and infinite times the zero weight that
    # reads it is not zero.
    if len(node.all_input_nodes) != 2 or not known or operation(node) == "div":
        return None
    shape = analysis.trace.shape(node)
    # Axes are counted from the end, as broadcasting does; the tensor that is as wide as the result decides.
    from_end = {len(analysis.trace.shape(argument)) - analysis.features[argument].axis for argument in known}
    if len(from_end) != 1 or (back := from_end.pop()) > len(shape):
        return None
    axis = len(shape) - back
    terms = [_operand(analysis, argument, back, shape[axis]) for argument in node.all_input_nodes]
    whole = [term for term in terms if term.size]
    if not any(analysis.features.get(argument) in whole for argument in known):
        return None
    for term in whole[1:]:
        analysis.coupling.couple(whole[0].channels, term.channels)
    constants = [np.broadcast_to(term.constant, shape[axis]) for term in terms]
    constant = evaluated(node, dict(zip(node.all_input_nodes, constants, strict=True)))
    where = [np.ones(shape[axis], np.bool_)] * 2
    if operation(node) == "mul":
        # Zero times anything is zero: the other factor is dead. Of two zeros, one is enough.
        zero = [np.equal(value, 0.0) for value in constants]
        constant = np.where(zero[0] | zero[1], 0.0, constant)
        where = [~zero[1], ~zero[0] | zero[1]]
    depends = [(term, partial(np.logical_and, mask)) for term, mask in zip(terms, where, strict=True) if term.size]
    return analysis.result(axis, whole[0].channels, constant, *depends)


def _operand(analysis: Analysis, node: Node, back: int, size: int) -> FeatureMap:
    """Return an operand with channels ``back`` axes from the end; of size 0 where it is the same for all channels."""
    shape = analysis.trace.shape(node)
    axis = len(shape) - back
    wide = axis >= 0 and shape[axis] == size
    if (name := analysis.name(node)) is None:
        if wide:
            return analysis.feature(node, axis)
        analysis.keep_all(node)
        return _shared(np.nan)
    entries = analysis.value(name)
    if not wide:
        analysis.keep_all(node)
        return _shared(entries.item() if entries.size == 1 else np.nan)
    rows = np.moveaxis(entries, axis, 0).reshape(size, -1)
    constant = np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)
    return FeatureMap(axis, analysis.coupling.of_axis(name, axis, size), constant)


def _shared(value: float) -> FeatureMap:
    """Return an operand of one value for all channels, NaN if it is not known."""
    return FeatureMap(0, np.empty(0, np.int64), np.array(value))


@unary
def normalisation(analysis: Analysis, _: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Batch and instance norm: a scale and a shift of each channel, by stored statistics or by those of the input."""
    tensors = [given[key] for key in ("weight", "bias", "running_mean", "running_var")]
    names = [analysis.name(tensor) for tensor in tensors]
    computed = any(name is None for name, tensor in zip(names, tensors, strict=True) if tensor is not None)
    if source.axis != 1 or computed or not any(names):  # a norm without tensors cannot be resized
        return None
    for name in names:
        if name is not None:
            analysis.coupling.couple_axis(name, 0, source.channels)
    weight, bias, mean, variance = (None if name is None else analysis.value(name) for name in names)
    scale = np.ones(source.size) if weight is None else weight
    shift = np.zeros(source.size) if bias is None else bias
    if given.get("training", given.get("use_input_stats")) or mean is None or variance is None:
        constant = np.full(source.size, np.nan)
    else:
        with np.errstate(all="ignore"):
            constant = (source.constant - mean) / np.sqrt(variance + given["eps"]) * scale + shift
    # A channel whose scale is zero is its shift, whatever comes in.
    return analysis.channelwise(source, np.where(scale == 0.0, shift, constant), where=scale != 0.0)


@unary
def prelu(analysis: Analysis, _: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """ReLU with a slope for each channel, or one for all, that is a parameter."""
    name = analysis.name(given["weight"])
    if name is None:
        return None
    slope = analysis.value(name).reshape(-1)
    if slope.size > 1:
        if source.axis != 1:
            return None
        analysis.coupling.couple_axis(name, 0, source.channels)
    return analysis.channelwise(source, np.where(source.constant > 0, source.constant, slope * source.constant))
