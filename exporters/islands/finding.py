"""Find islands: connected parts of a graph that the sparse kernels compute faster than dense ones.

Changing to the layout of the kernels and back costs about as much as a layer, so that a part has to be as large as
possible, with dense layers in its middle where they are few, and none at its ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from exporters.islands.graph_view import GraphView
from exporters.islands.units import Unit, units
from granet.kernels import cost
from granet.kernels.program import ISLANDS, Shape


@dataclass(frozen=True)
class Island:
    """Units that become one node.

    Attributes:
        units: in topological order.
        inputs: names of the values that come from outside, without constants.
        outputs: names of the values that are read outside.
        gain: predicted time that is saved, in the unit of ``granet.kernels.cost``.
    """

    units: tuple[Unit, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    gain: float

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the weights of its convolutions and linear layers."""
        return tuple(unit.layer.weight for unit in self.units if unit.layer is not None)


def find(view: GraphView) -> list[Island]:
    """Return the islands of a graph that are predicted to save time, in topological order."""
    every = units(view)
    left_out: set[int] = set()
    found = _islands(view, every, left_out)
    # A layer that the kernels compute slower than dense ones stays inside where splitting would cost more.
    for slow in sorted((unit for unit in every if _gain(unit) < 0), key=_gain):
        candidate = _islands(view, every, left_out | {slow.position})
        if sum(island.gain for island in candidate) > sum(island.gain for island in found):
            left_out.add(slow.position)
            found = candidate
    largest = sorted(found, key=lambda island: -island.gain)[:ISLANDS]
    return sorted(largest, key=lambda island: island.units[0].position)


def _islands(view: GraphView, every: Sequence[Unit], left_out: Collection[int]) -> list[Island]:
    possible = [unit for unit in every if unit.position not in left_out]
    parts = [part for level in _by_level(view, possible) for part in _trimmed_parts(level)]
    return [island for island in (_island(view, part) for part in parts) if island.gain > 0]


def _by_level(view: GraphView, possible: Sequence[Unit]) -> list[list[Unit]]:
    """Group units so that no path from one to another of a group leads outside the group.

    The level of a node is the largest number of changes between units and other nodes on any path to it.
    """
    unit_at = {unit.position: unit for unit in possible}
    inside = {index for unit in possible for index in unit.nodes}
    levels: dict[str, tuple[int, bool]] = {}
    groups: dict[int, list[Unit]] = defaultdict(list)
    for index, node in enumerate(view.nodes):
        unit = unit_at.get(index)
        if unit is None and index in inside:
            continue  # computed with its unit, at the last node of that
        before = [levels[name] for name in (unit.inputs if unit else node.input) if name in levels]
        level = max((depth + (is_unit != (unit is not None)) for depth, is_unit in before), default=0)
        for name in [unit.output] if unit else node.output:
            levels[name] = (level, unit is not None)
        if unit is not None:
            groups[level].append(unit)
    return list(groups.values())


def _trimmed_parts(group: Sequence[Unit]) -> list[list[Unit]]:
    """Split a group into connected parts that begin and end with layers that gain."""
    kept = list(group)
    while True:
        made = {unit.output for unit in kept}
        read = {name for unit in kept for name in unit.inputs}
        inner = [unit for unit in kept if _gain(unit) > 0 or (made.intersection(unit.inputs) and unit.output in read)]
        if len(inner) == len(kept):
            return _connected(kept)
        kept = inner


def _connected(group: Sequence[Unit]) -> list[list[Unit]]:
    """Split units into parts that are connected by values inside the group."""
    part_of: dict[str, list[Unit]] = {}
    for unit in group:
        joined = [unit]
        for name in unit.inputs:
            if name in part_of and part_of[name] is not joined:
                joined = [*part_of[name], *joined]
                for member in joined:
                    part_of[member.output] = joined
        part_of[unit.output] = joined
        for member in joined:
            part_of[member.output] = joined
    unique = {id(part): part for part in part_of.values()}
    return [sorted(part, key=lambda unit: unit.position) for part in unique.values()]


def _island(view: GraphView, part: Sequence[Unit]) -> Island:
    made = {unit.output: unit for unit in part}
    nodes = {index for unit in part for index in unit.nodes}
    inputs = tuple(dict.fromkeys(name for unit in part for name in unit.inputs if name not in made))
    outputs = tuple(name for name in made if name in view.outputs or not nodes.issuperset(view.readers.get(name, [])))
    shapes = [view.shape(name) for name in inputs] + [made[name].shape for name in outputs]
    border = sum(cost.border_cost(_elements(shape)) for shape in shapes if shape is not None)
    return Island(tuple(part), inputs, outputs, sum(map(_gain, part)) - border)


def _gain(unit: Unit) -> float:
    """The predicted time that is saved on a unit; 0 for what takes as long either way."""
    layer = unit.layer
    if layer is None or layer.depthwise:
        return 0.0
    sparse = cost.sparse_cost(layer.nonzero, layer.pixels, layer.inputs, layer.outputs)
    return cost.dense_cost(layer.size, layer.pixels) - sparse


def _elements(shape: Shape) -> int:
    return shape.channels * max(shape.height, 1) * max(shape.width, 1)
