"""Rules for operators that move or gather entries: pooling, padding, views, concatenation."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

import numpy as np
from torch.fx import Node

from granet.coupling.analysis import Analysis, unary
from granet.coupling.channels import KEPT, FeatureMap
from granet.coupling.tracing import arguments, operation


@unary
def pooling(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Pooling and resizing, channel by channel, over the last one, two or three axes."""
    name, rank = operation(node), len(analysis.trace.shape(node.all_input_nodes[0]))
    if source.axis >= rank - next(int(character) for character in name if character.isdigit()):
        return None
    if isinstance(node.meta.get("val"), tuple | list) and any(user.args[1] != 0 and user.users for user in node.users):
        return None  # the indices of the largest values are used
    constant = source.constant
    padded = any(_listed(given.get("padding", 0)))
    # Maximum pads with minus infinity, of which a dilated window may see nothing else.
    if name.startswith("max_pool") and padded and set(_listed(given["dilation"])) != {1}:
        constant = np.full_like(constant, np.nan)
    # Padding counts as zeros in an average, unless told otherwise; then borders are lower than the rest.
    if name.startswith("avg_pool") and ((padded and given["count_include_pad"]) or given.get("divisor_override")):
        constant = np.where(constant == 0.0, 0.0, np.nan)
    return analysis.channelwise(source, constant)


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def item(analysis: Analysis, node: Node) -> FeatureMap | None:
    """The first result of an operator with several, such as max-pooling with indices."""
    source = analysis.features.get(node.args[0])  # type: ignore[arg-type]
    return None if source is None else analysis.channelwise(source, source.constant)


@unary
def reduction(analysis: Analysis, _: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Mean or maximum over axes other than that of the channels."""
    rank = len(analysis.trace.shape(given["self"]))
    axes = {axis % rank for axis in _listed(given["dim"] if given["dim"] is not None else [])}
    if not axes or source.axis in axes or given.get("dtype") is not None:
        return None
    axis = source.axis if given["keepdim"] else source.axis - sum(other < source.axis for other in axes)
    return analysis.channelwise(source, source.constant, axis=axis)


@unary
def permutation(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Axes in another order."""
    rank = len(analysis.trace.shape(node))
    if "dims" in given:
        order = [axis % rank for axis in given["dims"]]
    else:
        one, other = (axis % rank for key, axis in given.items() if key != "self")
        order = list(range(rank))
        order[one], order[other] = other, one
    return analysis.channelwise(source, source.constant, axis=order.index(source.axis))


@unary
def piece(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Rule for slice, select and squeeze: any axis but that of the channels, which may only be taken in full."""
    shape = analysis.trace.shape(given["self"])
    axis = given["dim"] % len(shape)
    if operation(node) == "slice":
        whole = given["start"] in (0, None) and given["step"] == 1 and given["end"] in (None, 2**63 - 1)
        return None if axis == source.axis and not whole else analysis.channelwise(source, source.constant)
    if axis == source.axis:
        return None
    gone = operation(node) == "select" or shape[axis] == 1  # or squeezed, which leaves other sizes as they are
    return analysis.channelwise(source, source.constant, axis=source.axis - (gone and axis < source.axis))


@unary
def insertion(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """A new axis of size 1."""
    axis = given["dim"] % len(analysis.trace.shape(node))
    return analysis.channelwise(source, source.constant, axis=source.axis + (axis <= source.axis))


@unary
def flattening(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Channels and all axes behind them as one axis, or axes behind the channels as one.

    Of views only those written with -1, as ``x.view(len(x), -1)``: other sizes hold only for all channels.
    """
    shape = analysis.trace.shape(given["self"])
    if operation(node) == "flatten":
        start, end = (given[key] % len(shape) for key in ("start_dim", "end_dim"))
        if start > source.axis:
            return analysis.channelwise(source, source.constant)
        if start != source.axis or end != len(shape) - 1:
            return None
    else:
        target = list(given["size" if operation(node) == "view" else "shape"])
        if source.axis != 1 or target != [shape[0], -1]:
            return None
    each = math.prod(shape[source.axis + 1 :])
    return analysis.result(
        source.axis,
        np.repeat(source.channels, each),
        np.repeat(source.constant, each),
        (source, lambda live: np.logical_or.reduce(live.reshape(source.size, each), axis=1)),
    )


def concatenation(analysis: Analysis, node: Node) -> FeatureMap | None:
    """Tensors one behind the other along the axis of the channels."""
    given = arguments(node)
    axis = given["dim"] % len(analysis.trace.shape(node))
    if not any(part in analysis.features and analysis.features[part].axis == axis for part in given["tensors"]):
        return None
    parts = [analysis.feature(part, axis) for part in given["tensors"]]
    ends = np.cumsum([part.size for part in parts])
    depends = [(part, itemgetter(slice(end - part.size, end))) for part, end in zip(parts, ends, strict=True)]
    channels = np.concatenate([part.channels for part in parts])
    return analysis.result(axis, channels, np.concatenate([part.constant for part in parts]), *depends)


@unary
def padding(analysis: Analysis, node: Node, source: FeatureMap, given: dict[str, Any]) -> FeatureMap | None:
    """Padding of other axes, or channels of a constant before and behind those that there are, as in shortcuts."""
    rank = len(analysis.trace.shape(node))
    mode = given.get("mode", "constant")
    filling = float(given["value"] if given.get("value") is not None else 0.0) if mode == "constant" else np.nan
    amounts = dict(enumerate(zip(given["pad"][::2], given["pad"][1::2], strict=True)))  # from the last axis
    before, behind = amounts.pop(rank - 1 - source.axis, (0, 0))
    if min(before, behind) < 0 or (max(before, behind) > 0 and mode != "constant"):
        return None
    constant = source.constant
    if mode == "constant" and any(amount > 0 for pair in amounts.values() for amount in pair):
        constant = np.where(constant == filling, constant, np.nan)
    if before == behind == 0:
        return analysis.channelwise(source, constant)
    return analysis.result(
        source.axis,
        np.pad(source.channels, (before, behind), constant_values=KEPT),
        np.pad(constant, (before, behind), constant_values=filling),
        (source, lambda live: live[before : before + source.size]),
    )
