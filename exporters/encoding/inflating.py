"""A model with encoded weights -> the same model with plain ones, for tools that want to see them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, numpy_helper

from exporters.encoding.decode import Decoder, WeightReader, is_decoder_domain, scopes
from exporters.encoding.graphs import graphs, subgraphs
from granet.errors import ModelError

MARK = "granet.inflated"
"""The key in the metadata of a model that had encoded weights."""


@dataclass(frozen=True, eq=False)
class Inflated:
    """A model with plain weights.

    Attributes:
        model: the model.
        tensors: names of those that were encoded or sparse.
    """

    model: onnx.ModelProto
    tensors: tuple[str, ...]


def inflate(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` in which all that a decoder or a sparse tensor stands for is a plain tensor.

    Weights are bit by bit what ONNX Runtime decodes. Everything else is kept; where there was something to do the
    metadata say so. The model may come from anybody, with the data of all its tensors.

    Raises:
        ModelError: encoded weights that are damaged, or decoders that granet did not write.
    """
    return expand(model).model


def expand(model: onnx.ModelProto) -> Inflated:
    """The same, and which tensors that concerned.

    Raises:
        ModelError: as :func:`inflate`.
    """
    reader = WeightReader(model)
    inflated = onnx.ModelProto()
    inflated.CopyFrom(model)
    found = [
        (copy, [reader.decoder(node, scope) for node in graph.node if is_decoder_domain(node.domain)])
        for (graph, scope), copy in zip(scopes(model.graph), graphs(inflated.graph), strict=True)
    ]
    for copy, decoders in found:
        _replace_decoders_(copy, decoders)
    tensors = [decoder.name for _, decoders in found for decoder in decoders]
    _drop_unread_(inflated.graph, {name for _, decoders in found for x in decoders for name in x.node.input})
    for copy, _ in found:
        tensors += _densify_(copy, reader)
    _drop_functions_(inflated)
    for function in inflated.functions:
        for holder in _bodies(function):
            tensors += _densify_constants_(holder, reader)
    if tensors and MARK not in {entry.key for entry in inflated.metadata_props}:
        inflated.metadata_props.add(key=MARK, value="true")
    return Inflated(inflated, tuple(tensors))


def _replace_decoders_(graph: onnx.GraphProto, decoders: Collection[Decoder]) -> None:
    _keep_(graph.node, lambda node: not is_decoder_domain(node.domain))
    for decoder in decoders:
        graph.initializer.append(numpy_helper.from_array(decoder.decode(), decoder.name))


def _drop_unread_(graph: onnx.GraphProto, candidates: Collection[str]) -> None:
    """Removes the constants among ``candidates`` that nothing reads any more."""
    whole = list(graphs(graph))
    read = {name for inner in whole for node in inner.node for name in node.input}
    read |= {value.name for inner in whole for value in inner.output}
    gone = set(candidates) - read
    for inner in whole:
        _keep_(inner.initializer, lambda tensor: tensor.name not in gone)
        _keep_(inner.sparse_initializer, lambda tensor: tensor.values.name not in gone)
        _keep_(inner.node, lambda node: not (node.op_type == "Constant" and gone.issuperset(node.output)))


def _densify_(graph: onnx.GraphProto, reader: WeightReader) -> list[str]:
    """Makes plain initializers of sparse ones, and plain constants of sparse ones; returns which."""
    names = [tensor.values.name for tensor in graph.sparse_initializer]
    for tensor, name in zip(graph.sparse_initializer, names, strict=True):
        graph.initializer.append(numpy_helper.from_array(reader.sparse(tensor, name).decode(), name))
    del graph.sparse_initializer[:]
    return names + _densify_constants_(graph.node, reader)


def _densify_constants_(nodes: Iterable[onnx.NodeProto], reader: WeightReader) -> list[str]:
    names = []
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                names.append(", ".join(node.output))
                values = reader.sparse(attribute.sparse_tensor, names[-1]).decode()
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
    return names


def _drop_functions_(model: onnx.ModelProto) -> None:
    _keep_(model.functions, lambda function: not is_decoder_domain(function.domain))
    for function in model.functions:
        for nodes in _bodies(function):
            if any(is_decoder_domain(node.domain) for node in nodes):
                raise ModelError(
                    "a decoder inside a function, where granet writes none", where=f"{function.domain}.{function.name}"
                )
    _keep_(model.opset_import, lambda entry: not is_decoder_domain(entry.domain))


def _bodies(function: onnx.FunctionProto) -> Iterator[Iterable[onnx.NodeProto]]:
    """The nodes of a function, and those of the graphs inside it."""
    yield function.node
    for node in function.node:
        for inner in subgraphs(node):
            for graph in graphs(inner):
                yield graph.node


def _keep_(items: Any, wanted: Callable[[Any], bool]) -> None:
    """Removes from a repeated field what is not wanted, from the end, so that nothing is copied."""
    for index in range(len(items) - 1, -1, -1):
        if not wanted(items[index]):
            del items[index]
