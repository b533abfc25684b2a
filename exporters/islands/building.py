"""Put islands into a model: each becomes a function of the same nodes, and one node that calls it.

The function makes the file run anywhere. Where the library of sparse kernels is registered, its operator of the same
name takes the function's place and runs the program in the node's attribute.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from exporters.encoding import decoder_functions
from exporters.encoding.decoder_functions import DOMAIN, FUNCTIONS, LAYOUTS
from exporters.graphs import copy_without, drop_unread_constants_, opset
from exporters.islands.finding import Island, find
from exporters.islands.graph_view import GraphView, shapes_of
from granet.kernels import program
from granet.kernels.program import ATTRIBUTE, Program, Weight, WeightLayout

_LAYOUTS: Mapping[str, WeightLayout] = {
    "Dense": WeightLayout.DENSE,
    "Gaps8Steps": WeightLayout.GAPS8_STEPS,
    "Gaps8": WeightLayout.GAPS8,
    "Gaps4": WeightLayout.GAPS4,
    "Gaps4Packed": WeightLayout.GAPS4_PACKED,
    "Bitmask": WeightLayout.BITMASK,
}

FUNCTIONS_IR = 8
"""The first version of the format in which a model can have functions."""


def add_islands(model: onnx.ModelProto, dense: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Island, ...]]:
    """Return a copy of ``model`` in which islands of sparse layers are functions, and these islands.

    Args:
        model: with encoded weights, as ``exporters.encoding.encode`` returns it.
        dense: the same graph with plain weights, to infer shapes from.
    """
    view = GraphView(model, shapes_of(dense))
    islands = find(view)
    if not islands:
        return model, ()
    changed = copy_without(model, "node")
    calls = []
    for number, island in enumerate(islands):
        call, function = _call_and_function(view, island, program.island_name(number), opset(model))
        calls.append(call)
        changed.functions.append(function)
    moved = {view.nodes[index].output[0] for island in islands for unit in island.units for index in unit.nodes}
    kept = [node for node in view.nodes if node.output[0] not in moved]
    read = {name for node in kept for name in node.input} | view.outputs
    decoders = [node for name, node in view.decoders.items() if name in read]
    changed.graph.node.extend(_in_topological_order([*decoders, *kept, *calls]))
    settings = {name for node in view.nodes if node.output[0] in moved for name in node.input if name in view.tensors}
    drop_unread_constants_(changed.graph, settings)
    changed.ir_version = max(changed.ir_version, FUNCTIONS_IR)
    if DOMAIN not in {entry.domain for entry in changed.opset_import}:
        changed.opset_import.append(helper.make_opsetid(DOMAIN, decoder_functions.VERSION))
    return changed, tuple(islands)


def _call_and_function(
    view: GraphView, island: Island, name: str, version: int
) -> tuple[onnx.NodeProto, onnx.FunctionProto]:
    """Return the node that calls an island, and the function that it calls."""
    constants = _Constants(view)
    numbers = {value: number for number, value in enumerate(island.inputs)}
    operations = []
    for unit in island.units:
        operations.append(unit.operation(numbers.__getitem__, constants.stored))
        numbers[unit.output] = len(numbers)
    encoded = program.encode(
        Program(
            inputs=tuple(shape for value in island.inputs if (shape := view.shape(value)) is not None),
            constants=len(constants.names),
            operations=tuple(operations),
            outputs=tuple(numbers[value] for value in island.outputs),
        )
    )
    inputs = [*island.inputs, *constants.names]
    body = [view.nodes[index] for index in sorted(index for unit in island.units for index in unit.nodes)]
    wanted = dict.fromkeys(value for node in body for value in node.input)
    decoders = [view.decoders[value] for value in wanted if value in view.decoders]
    settings = [
        helper.make_node("Constant", [], [value], value=view.tensors[value])
        for value in wanted
        if value in view.tensors and value not in constants.names
    ]
    formal = {constant: f"c{number}" for number, constant in enumerate(constants.names)}  # short: the file is small
    function = helper.make_function(
        DOMAIN,
        name,
        [*island.inputs, *formal.values()],
        list(island.outputs),
        [*settings, *(_renamed(node, formal) for node in [*decoders, *body])],
        [helper.make_opsetid("", version), helper.make_opsetid(DOMAIN, decoder_functions.VERSION)],
        [ATTRIBUTE],
        doc_string="Sparse layers. Where granet's kernels are registered, they compute this by the program instead.",
    )
    call = helper.make_node(name, inputs, island.outputs, name=name, domain=DOMAIN)
    call.attribute.append(helper.make_attribute(ATTRIBUTE, encoded))
    return call, function


class _Constants:
    """The constants of an island in the order of its node's inputs, numbered when first asked for."""

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._numbers)

    def stored(self, name: str) -> Weight:
        """Return how the weight or bias called ``name`` is stored."""
        decoder = self._view.decoders.get(name)
        if decoder is None:
            return Weight(layout=WeightLayout.DENSE, values=self._number(name))
        layout, format = FUNCTIONS[decoder.op_type]
        roles = dict(zip(LAYOUTS[layout].inputs(format), decoder.input, strict=True))
        positions = LAYOUTS[layout].positions
        count = [attribute.ints[0] for attribute in decoder.attribute if attribute.name == "count"]
        return Weight(
            layout=_LAYOUTS[layout],
            values=self._number(roles["values"]),
            positions=self._number(roles[positions]) if positions else program.NONE,
            scales=self._number(roles["scales"]) if format.scaled else program.NONE,
            count=count[0] if count else 0,
        )

    def _number(self, tensor: str) -> int:
        return self._numbers.setdefault(tensor, len(self._numbers))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of a node that reads values under other names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    return copy


def _in_topological_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sort nodes so that each comes behind those that it reads, and else in their order."""
    maker = {name: index for index, node in enumerate(nodes) for name in node.output}
    makers = [{maker[name] for name in node.input if name in maker} for node in nodes]
    readers: dict[int, list[int]] = defaultdict(list)
    for index, before in enumerate(makers):
        for other in before:
            readers[other].append(index)
    missing = [len(before) for before in makers]
    ready = [index for index, count in enumerate(missing) if not count]
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(nodes[index])
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    return ordered
