"""Replace the nodes of islands by the layers that they stand for, as ONNX Runtime does without the sparse kernels."""

from __future__ import annotations

import re

import onnx

from exporters.graphs import bodies, keep_, value_names
from granet.errors import ModelError
from granet.kernels.program import DOMAIN

_NAME = re.compile(r"Island\d+")


def is_island(node: onnx.NodeProto) -> bool:
    """Return whether a node calls an island."""
    return node.domain == DOMAIN and _is_name(node.op_type)


def _is_name(name: str | bytes) -> bool:
    """Return whether this is the name of an island; bytes, which are no UTF-8, are the name of nothing."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def inline_islands(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` without islands, or itself if it has none. The model may be untrusted.

    Raises:
        ModelError: an island that is not in the file's functions, calls another one, or is called in another graph
            than the model's own.
    """
    if not any(is_island(node) for body in bodies(model) for node in body.node):
        return model
    functions = {
        function.name: function for function in model.functions if function.domain == DOMAIN and _is_name(function.name)
    }
    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    del flat.graph.node[:]
    taken = value_names(model)
    for node in model.graph.node:
        if is_island(node):
            flat.graph.node.extend(_body(node, functions.get(node.op_type), taken))
        else:
            flat.graph.node.append(node)
    keep_(flat.functions, lambda function: function.domain != DOMAIN or function.name not in functions)
    if any(is_island(node) for body in bodies(flat) for node in body.node):
        raise ModelError("an island inside another graph, where granet writes none", remedy="export the file again")
    return flat


def _body(call: onnx.NodeProto, function: onnx.FunctionProto | None, taken: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes of a function under the names that its call gives to inputs and outputs."""
    if (
        function is None
        or len(call.input) != len(function.input)
        or len(call.output) != len(function.output)
        or any(is_island(node) for node in function.node)
    ):
        raise ModelError("an island that is damaged", where=call.name or call.op_type, remedy="export the file again")
    names: dict[str, str] = {"": ""}
    names |= zip([*function.input, *function.output], [*call.input, *call.output], strict=True)

    def renamed(name: str) -> str:
        if name not in names:
            free = name
            while free in taken:
                free += "_"
            taken.add(free)
            names[name] = free
        return names[name]

    nodes = []
    for node in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [renamed(name) for name in node.input]
        copy.output[:] = [renamed(name) for name in node.output]
        nodes.append(copy)
    return nodes
