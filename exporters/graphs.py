"""Traverse, copy, trim and measure the protocol buffers of ONNX models."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def bodies(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield everything that has nodes: the graph, the functions, and all graphs inside them."""
    yield from graphs(model.graph)
    for function in model.functions:
        yield function
        for node in function.node:
            for inner in subgraphs(node):
                yield from graphs(inner)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that may have its data in another file: initializers and attributes, in all bodies."""
    for body in bodies(model):
        sparse = [] if isinstance(body, onnx.FunctionProto) else list(body.sparse_initializer)
        if isinstance(body, onnx.GraphProto):
            yield from body.initializer
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("sparse_tensor"):
                    sparse.append(attribute.sparse_tensor)
                yield from attribute.tensors
        for tensor in sparse:
            yield tensor.values
            yield tensor.indices


def value_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of all values in the graph and the graphs inside it."""
    found: set[str] = set()
    for graph in graphs(model.graph):
        for values in (graph.input, graph.output, graph.initializer, graph.value_info):
            found.update(value.name for value in values)
        found.update(sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            found.update(node.input, node.output)
    return found


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that the model uses, 0 when it uses none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def is_text(message: Message) -> bool:
    """Return whether all text fields of a message, and of those inside it, are UTF-8.

    Protocol buffers return other content as bytes, which are not the name of anything.
    """
    for field, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(map(is_text, values)):
            return False
    return True


def copy_fields(source: Message, target: Any, *, leave: Collection[str]) -> None:
    """Copy all fields but those in ``leave``, which may be too large for two copies."""
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)


def copy_without(model: onnx.ModelProto, *fields: str) -> onnx.ModelProto:
    """Return a copy of ``model`` without some fields of its graph."""
    copy = onnx.ModelProto()
    copy_fields(model, copy, leave=["graph"])
    copy_fields(model.graph, copy.graph, leave=fields)
    return copy


def keep_(items: Any, wanted: Callable[[Any], bool]) -> None:
    """Remove the unwanted items of a repeated field, in place, from the end, so that nothing is copied."""
    for index in range(len(items) - 1, -1, -1):
        if not wanted(items[index]):
            del items[index]


def drop_unread_constants_(graph: onnx.GraphProto, candidates: Collection[str]) -> None:
    """Remove the initializers and constants among ``candidates`` that nothing reads any more, in place."""
    whole = list(graphs(graph))
    read = {name for inner in whole for node in inner.node for name in node.input}
    read |= {value.name for inner in whole for value in inner.output}
    unread = set(candidates) - read
    for inner in whole:
        keep_(inner.initializer, lambda tensor: tensor.name not in unread)
        keep_(inner.sparse_initializer, lambda tensor: tensor.values.name not in unread)
        keep_(inner.node, lambda node: not (node.op_type == "Constant" and unread.issuperset(node.output)))


def field_bytes(message: Message) -> int:
    """Return the size of a message as a field of another one: its number, its length and itself."""
    size: int = message.ByteSize()
    return 1 + max(math.ceil(size.bit_length() / 7), 1) + size
