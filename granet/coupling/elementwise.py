"""Rules for what works entry by entry or channel by channel: activations, arithmetic, normalisation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from granet.coupling.features import Feature, Values
from granet.coupling.state import Analysis
from granet.coupling.tracing import arguments, operation


def evaluated(node: Node, values: Mapping[Node, Values]) -> Values:
    """What an elementwise operator makes of constants."""
    stand_ins = {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: stand_ins[argument])
    result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return result.numpy()


def identity(at: Analysis, node: Node) -> Feature | None:
    """Copies and views of everything, and dropout that is off."""
    given = arguments(node)
    source = at.features.get(node.args[0])  # type: ignore[arg-type]
    same = source is not None and at.trace.dtype(node.args[0]) == at.trace.dtype(node)  # type: ignore[arg-type]
    if source is None or not same or given.get("train", False):
        return None
    return at.through(source, source.constant)


def elementwise(at: Analysis, node: Node) -> Feature | None:
    """A function of one tensor, entry by entry."""
    if len(node.all_input_nodes) != 1 or (source := at.features.get(node.all_input_nodes[0])) is None:
        return None
    return at.through(source, evaluated(node, {node.all_input_nodes[0]: source.constant}))


def binary(at: Analysis, node: Node) -> Feature | None:
    """A function of two tensors, entry by entry, with broadcasting."""
    if len(node.all_input_nodes) == 1:
        return elementwise(at, node)
    known = [argument for argument in node.all_input_nodes if argument in at.features]
    # Of channels that nobody needs any value may come; divided by, it would be infinite, and infinite times the zero
    # weight that reads it is not zero.
    if len(node.all_input_nodes) != 2 or not known or operation(node) == "div":
        return None
    shape = at.trace.shape(node)
    # Axes are counted from the end, as broadcasting does; the tensor that is as wide as the result decides.
    from_end = {len(at.trace.shape(argument)) - at.features[argument].axis for argument in known}
    if len(from_end) != 1 or (back := from_end.pop()) > len(shape):
        return None
    axis = len(shape) - back
    terms = [_operand(at, argument, back, shape[axis]) for argument in node.all_input_nodes]
    whole = [term for term in terms if term.size]
    if not any(at.features.get(argument) in whole for argument in known):
        return None
    for term in whole[1:]:
        at.ties.tie(whole[0].slots, term.slots)
    constants = [np.broadcast_to(term.constant, shape[axis]) for term in terms]
    constant = evaluated(node, dict(zip(node.all_input_nodes, constants, strict=True)))
    needs = [np.ones(shape[axis], np.bool_)] * 2
    if operation(node) == "mul":
        # Nought times anything is nought: the other factor is not needed. Of two noughts, one is enough.
        nought = [np.equal(value, 0.0) for value in constants]
        constant = np.where(nought[0] | nought[1], 0.0, constant)
        needs = [~nought[1], ~nought[0] | nought[1]]
    result = Feature(axis, whole[0].slots, constant)

    def pass_on() -> None:
        for term, where in zip(terms, needs, strict=True):
            if term.size:
                term.needed |= result.needed & where

    at.tape.append(pass_on)
    return result


def _operand(at: Analysis, node: Node, back: int, size: int) -> Feature:
    """An operand with its channels ``back`` axes from the end; of size 0 where it is the same for all channels."""
    shape = at.trace.shape(node)
    axis = len(shape) - back
    wide = axis >= 0 and shape[axis] == size
    if (name := at.name(node)) is None:
        if wide:
            return at.along(node, axis)
        at.hold(node)
        return _same(np.nan)
    entries = at.value(name)
    if not wide:
        at.hold(node)
        return _same(entries.item() if entries.size == 1 else np.nan)
    rows = np.moveaxis(entries, axis, 0).reshape(size, -1)
    return Feature(axis, at.ties.along(name, axis, size), np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan))


def _same(value: float) -> Feature:
    """A number, NaN if it is not known, that all channels meet."""
    return Feature(0, np.empty(0, np.int64), np.array(value))


def normalisation(at: Analysis, node: Node) -> Feature | None:
    """Batch and instance norm: a scale and a shift of each channel, by stored statistics or by those of the input."""
    given = arguments(node)
    source = at.features.get(given["input"])
    tensors = [given[key] for key in ("weight", "bias", "running_mean", "running_var")]
    names = [at.name(tensor) for tensor in tensors]
    computed = any(name is None for name, tensor in zip(names, tensors, strict=True) if tensor is not None)
    if source is None or source.axis != 1 or computed or not any(names):  # a norm without tensors cannot be resized
        return None
    for name in names:
        if name is not None:
            at.ties.bind(name, 0, source.slots)
    weight, bias, mean, variance = (None if name is None else at.value(name) for name in names)
    scale = np.ones(source.size) if weight is None else weight
    shift = np.zeros(source.size) if bias is None else bias
    if given.get("training", given.get("use_input_stats")) or mean is None or variance is None:
        constant = np.full(source.size, np.nan)
    else:
        with np.errstate(all="ignore"):
            constant = (source.constant - mean) / np.sqrt(variance + given["eps"]) * scale + shift
    # A channel whose scale is nought is its shift, whatever comes in.
    return at.through(source, np.where(scale == 0.0, shift, constant), where=scale != 0.0)


def prelu(at: Analysis, node: Node) -> Feature | None:
    """ReLU with a slope for each channel, or one for all, that is a parameter."""
    given = arguments(node)
    source, name = at.features.get(given["self"]), at.name(given["weight"])
    if source is None or name is None:
        return None
    slope = at.value(name).reshape(-1)
    if slope.size > 1:
        if source.axis != 1:
            return None
        at.ties.bind(name, 0, source.slots)
    return at.through(source, np.where(source.constant > 0, source.constant, slope * source.constant))
