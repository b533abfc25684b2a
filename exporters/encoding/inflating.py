"""Replace encoded weights of a model by plain ones, for tools that have to see them."""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import helper, numpy_helper

from exporters.encoding.decode import WeightReader, scopes
from exporters.encoding.decoder_functions import DOMAIN
from exporters.graphs import bodies, drop_unread_constants_, graphs, keep_
from exporters.islands.inlining import inline_islands
from granet.errors import ModelError

MARK = "granet.inflated"
"""The key in the metadata of a model that had encoded weights."""


class Inflated(NamedTuple):
    """A model with plain weights, and the names of those that were encoded or sparse."""

    model: onnx.ModelProto
    tensors: tuple[str, ...]


def inflate(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` with plain tensors instead of decoders and sparse tensors, and without islands.

    Weights are bit by bit what ONNX Runtime decodes. Everything else is kept; a model that changed has ``MARK`` in its
    metadata. The model may be untrusted, and has the data of all its tensors.

    Raises:
        ModelError: encoded weights that are damaged, or decoders that granet did not write.
    """
    return inflate_with_names(model).model


def inflate_with_names(model: onnx.ModelProto) -> Inflated:
    """Inflate ``model`` as ``inflate`` does; return also the names of the tensors that were encoded or sparse."""
    model = inline_islands(model)
    reader = WeightReader(model)
    inflated = onnx.ModelProto()
    inflated.CopyFrom(model)
    tensors: list[str] = []
    inputs: set[str] = set()
    # Scopes are those of the original: they refer to tensors that the copy loses on the way.
    for (graph, scope), copy in zip(scopes(model.graph), graphs(inflated.graph), strict=True):
        decoders = reader.decoders(graph, scope)
        keep_(copy.node, lambda node: node.domain != DOMAIN)
        copy.initializer.extend(numpy_helper.from_array(decoder.decode(), decoder.name) for decoder in decoders)
        tensors += [decoder.name for decoder in decoders]
        inputs.update(name for decoder in decoders for name in decoder.inputs)
    drop_unread_constants_(inflated.graph, inputs)
    _drop_functions_(inflated)
    for body in bodies(inflated):
        tensors += _densify_(body, reader)
    if tensors and MARK not in {entry.key for entry in inflated.metadata_props}:
        inflated.metadata_props.add(key=MARK, value="true")
    return Inflated(inflated, tuple(tensors))


def _densify_(body: onnx.GraphProto | onnx.FunctionProto, reader: WeightReader) -> list[str]:
    """Replace sparse initializers and sparse constants by plain ones; return their names."""
    names = []
    if isinstance(body, onnx.GraphProto):
        for tensor in body.sparse_initializer:
            names.append(tensor.values.name)
            body.initializer.append(numpy_helper.from_array(reader.sparse(tensor, names[-1]).decode(), names[-1]))
        del body.sparse_initializer[:]
    for node in body.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                names.append(", ".join(node.output))
                values = reader.sparse(attribute.sparse_tensor, names[-1]).decode()
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
    return names


def _drop_functions_(model: onnx.ModelProto) -> None:
    keep_(model.functions, lambda function: function.domain != DOMAIN)
    keep_(model.opset_import, lambda entry: entry.domain != DOMAIN)
    for body in bodies(model):
        if any(node.domain == DOMAIN for node in body.node):
            raise ModelError("a decoder inside a function, where granet writes none", where=body.name)
