"""Ways through a model: its graphs, its names, and copies that leave something out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names(model: onnx.ModelProto) -> set[str]:
    """Every name of a value in the graph and those inside it."""
    return {name for graph in graphs(model.graph) for name in _names(graph)}


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the model uses; 0 when it uses none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def is_text(message: Any) -> bool:
    """Whether all that should be text in a message, and in those inside it, is.

    Protocol buffers give what is not UTF-8 as bytes, which no name of anything is.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if isinstance(value, bytes) or (not isinstance(value, str) and any(isinstance(x, bytes) for x in value)):
                return False
        elif field.type == field.TYPE_MESSAGE and not all(map(is_text, [value] if _is_single(value) else value)):
            return False
    return True


def copy(model: onnx.ModelProto, *, leave: Collection[str]) -> onnx.ModelProto:
    """A copy without some fields of the graph, which may be too large to have twice."""
    made = onnx.ModelProto()
    _copy_fields(model, made, ("graph",))
    _copy_fields(model.graph, made.graph, leave)
    return made


def _copy_fields(source: Any, target: Any, leave: Collection[str]) -> None:
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)


def _is_single(value: Any) -> bool:
    return hasattr(value, "ListFields")


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield value.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        yield from node.input
        yield from node.output
