"""Rules for what moves entries about or gathers them within a channel: pooling, padding, views, concatenation."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from granet.coupling.features import PINNED, Feature
from granet.coupling.state import Analysis
from granet.coupling.tracing import arguments, operation


def pooling(at: Analysis, node: Node) -> Feature | None:
    """Pooling and resizing, channel by channel, over the last one, two or three axes."""
    given, name = arguments(node), operation(node)
    before = given["self"] if "self" in given else given["input"]
    source = at.features.get(before)
    dimensions = next(int(character) for character in name if character.isdigit())
    if source is None or source.axis >= len(at.trace.shape(before)) - dimensions:
        return None
    if isinstance(node.meta.get("val"), tuple | list) and any(user.args[1] != 0 and user.users for user in node.users):
        return None  # somebody wants to know where the largest values are
    constant = source.constant
    padded = any(_listed(given.get("padding", 0)))
    # Maximum pads with minus infinity, of which a dilated window may see nothing else.
    if name.startswith("max_pool") and padded and set(_listed(given["dilation"])) != {1}:
        constant = np.full_like(constant, np.nan)
    # Padding counts as zeros in an average, unless told otherwise; then borders are lower than the rest.
    if name.startswith("avg_pool") and ((padded and given["count_include_pad"]) or given.get("divisor_override")):
        constant = np.where(constant == 0.0, 0.0, np.nan)
    return at.through(source, constant)


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def item(at: Analysis, node: Node) -> Feature | None:
    """The first of what an operator that a rule here understood returns."""
    source = at.features.get(node.args[0])  # type: ignore[arg-type]
    return None if source is None else at.through(source, source.constant)


def reduction(at: Analysis, node: Node) -> Feature | None:
    """Mean or maximum over other axes than that of the channels."""
    given = arguments(node)
    source, rank = at.features.get(given["self"]), len(at.trace.shape(given["self"]))
    axes = {axis % rank for axis in _listed(given["dim"] if given["dim"] is not None else [])}
    if source is None or not axes or source.axis in axes or given.get("dtype") is not None:
        return None
    axis = source.axis if given["keepdim"] else source.axis - sum(other < source.axis for other in axes)
    return at.through(source, source.constant, axis=axis)


def permutation(at: Analysis, node: Node) -> Feature | None:
    """Axes in another order."""
    given = arguments(node)
    source, rank = at.features.get(given["self"]), len(at.trace.shape(node))
    if source is None:
        return None
    if "dims" in given:
        order = [axis % rank for axis in given["dims"]]
    else:
        one, other = (axis % rank for key, axis in given.items() if key != "self")
        order = list(range(rank))
        order[one], order[other] = other, one
    return at.through(source, source.constant, axis=order.index(source.axis))


def piece(at: Analysis, node: Node) -> Feature | None:
    """Entries of an axis: any of an axis without channels, all of the one with channels."""
    given = arguments(node)
    source, shape = at.features.get(given["self"]), at.trace.shape(given["self"])
    if source is None:
        return None
    axis = given["dim"] % len(shape)
    if operation(node) == "slice":
        whole = given["start"] in (0, None) and given["step"] == 1 and given["end"] in (None, 2**63 - 1)
        return None if axis == source.axis and not whole else at.through(source, source.constant)
    if axis == source.axis:
        return None
    gone = operation(node) == "select" or shape[axis] == 1  # or squeezed, which leaves other sizes as they are
    return at.through(source, source.constant, axis=source.axis - (gone and axis < source.axis))


def insertion(at: Analysis, node: Node) -> Feature | None:
    """A new axis of size 1."""
    given = arguments(node)
    if (source := at.features.get(given["self"])) is None:
        return None
    axis = given["dim"] % len(at.trace.shape(node))
    return at.through(source, source.constant, axis=source.axis + (axis <= source.axis))


def flattening(at: Analysis, node: Node) -> Feature | None:
    """Channels and all axes behind them as one axis, or axes behind the channels as one.

    A view counts when it is written with -1, as in ``x.view(len(x), -1)``: sizes that are spelled out hold only for
    the channels that there were.
    """
    given = arguments(node)
    source, shape = at.features.get(given["self"]), at.trace.shape(given["self"])
    if source is None:
        return None
    if operation(node) == "flatten":
        start, end = (given[key] % len(shape) for key in ("start_dim", "end_dim"))
        if start > source.axis:
            return at.through(source, source.constant)
        if start != source.axis or end != len(shape) - 1:
            return None
    else:
        target = list(given["size" if operation(node) == "view" else "shape"])
        if source.axis != 1 or target != [shape[0], -1]:
            return None
    each = int(np.prod(shape[source.axis + 1 :], dtype=np.int64))
    result = Feature(source.axis, np.repeat(source.slots, each), np.repeat(source.constant, each))

    def needs() -> None:
        source.needed |= result.needed.reshape(source.size, each).any(1)

    at.tape.append(needs)
    return result


def concatenation(at: Analysis, node: Node) -> Feature | None:
    """Tensors one behind the other along the axis of the channels."""
    given = arguments(node)
    axis = given["dim"] % len(at.trace.shape(node))
    if not any(part in at.features and at.features[part].axis == axis for part in given["tensors"]):
        return None
    parts = [at.along(part, axis) for part in given["tensors"]]
    result = Feature(
        axis, np.concatenate([part.slots for part in parts]), np.concatenate([part.constant for part in parts])
    )
    ends = np.cumsum([part.size for part in parts])

    def needs() -> None:
        for part, end in zip(parts, ends, strict=True):
            part.needed |= result.needed[end - part.size : end]

    at.tape.append(needs)
    return result


def padding(at: Analysis, node: Node) -> Feature | None:
    """Padding of other axes, or channels of a constant before and behind those that there are, as in shortcuts."""
    given = arguments(node)
    source, rank = at.features.get(given["self"]), len(at.trace.shape(node))
    if source is None:
        return None
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
        return at.through(source, constant)
    extra = (before, behind)
    result = Feature(
        source.axis,
        np.pad(source.slots, extra, constant_values=PINNED),
        np.pad(constant, extra, constant_values=filling),
    )

    def needs() -> None:
        source.needed |= result.needed[before : before + source.size]

    at.tape.append(needs)
    return result
