"""Find the layers of a network that see no input: what they compute is a constant of its graph.

A position bias that a small network computes from coordinates, as in Swin v2, is one. So is a linear layer that is
applied to a parameter, and a filter that another network makes.
"""

from __future__ import annotations

from collections.abc import Collection

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from granet.coupling.tracing import operation

_PRODUCTS = frozenset(
    {
        *("addbmm", "addmm", "addmv", "baddbmm", "bilinear", "bmm", "einsum", "linear", "matmul", "mm", "mv"),
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"),
        *("gru", "lstm", "rnn_relu", "rnn_tanh", "tensordot"),
    }
)
"""Operators by which a layer multiplies its weight with something."""


def constant_layers(program: ExportedProgram) -> frozenset[str]:
    """Return the parameters that layers multiply by constants only, by each of their names.

    A parameter that reaches the inputs of the network before any product, for instance the weight of a standardised
    convolution or of a parametrization, is none of them: its zeros have to be those of the weight that is multiplied.
    """
    varying = _varying(program)
    parameters = program.graph_signature.inputs_to_parameters
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return frozenset(
        name
        for node_name, name in parameters.items()
        if node_name in placeholders and _meets_constants_only(placeholders[node_name], varying)
    )


def _varying(program: ExportedProgram) -> set[Node]:
    """Return the nodes that depend on the inputs of the network, be it on their sizes."""
    inputs = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    varying: set[Node] = set()
    for node in program.graph.nodes:  # in the order in which they run
        if (node.op == "placeholder" and node.name in inputs) or not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
    return varying


def _meets_constants_only(parameter: Node, varying: Collection[Node]) -> bool:
    products, seen, todo = 0, {parameter}, list(parameter.users)
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in varying or node.op == "output":
            return False
        if operation(node) in _PRODUCTS:
            products += 1
        else:
            todo += node.users
    return products > 0
