"""A read-only view of an encoded graph: who makes and who reads each value, shapes of images, constants, weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding.decoder_functions import DOMAIN, FUNCTIONS, LAYOUTS
from exporters.graphs import copy_without
from granet.kernels.program import Shape

SMALL = 64
"""Elements up to which a constant is a setting of an operator, such as axes and bounds."""


class GraphView:
    """The top graph of a model with encoded weights.

    Args:
        model: as ``exporters.encoding.encode`` returns it.
        shapes: dimensions of the values; those that are not whole numbers are None.
    """

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
        self.nodes = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
        self.decoders = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.inputs = {value.name for value in model.graph.input}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                self.readers[name].append(index)
        self._shapes = shapes

    def shape(self, name: str) -> Shape | None:
        """Return the shape of one image of a value, None if it is no [batch, C, H, W] or [batch, C] of known sizes."""
        dimensions = self._shapes.get(name, ())
        sizes = [size for size in dimensions[1:] if size is not None and size > 0]
        if len(sizes) != len(dimensions) - 1 or len(dimensions) not in (2, 4):
            return None
        return (
            Shape(channels=sizes[0]) if len(sizes) == 1 else Shape(channels=sizes[0], height=sizes[1], width=sizes[2])
        )

    def only_reader(self, name: str) -> int | None:
        """Return the index of the one node that reads a value, None if there are more, or it leaves the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def setting(self, name: str) -> NDArray[np.generic] | None:
        """Return a small constant, None for other values."""
        tensor = self.tensors.get(name)
        if tensor is None or math.prod(tensor.dims) > SMALL or name in self.inputs:
            return None
        return numpy_helper.to_array(tensor)

    def is_weight(self, name: str) -> bool:
        """Return whether a value is a constant in fp32: an initializer, or what one of our decoders computes."""
        decoder = self.decoders.get(name)
        if decoder is not None:
            stored = all(tensor in self.tensors for tensor in decoder.input)  # not as a sparse tensor of the standard
            layout, format = FUNCTIONS[decoder.op_type]
            # ONNX Runtime has no UINT4 for custom operators.
            return stored and format.weight == TensorProto.FLOAT and LAYOUTS[layout].type != TensorProto.UINT4
        tensor = self.tensors.get(name)
        return tensor is not None and tensor.data_type == TensorProto.FLOAT and name not in self.inputs

    def weight_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value for which ``is_weight`` holds."""
        decoder = self.decoders.get(name)
        if decoder is None:
            return tuple(self.tensors[name].dims)
        declared = [tuple(attribute.ints) for attribute in decoder.attribute if attribute.name == "shape"]
        return declared[0] if declared else tuple(self.tensors[decoder.input[0]].dims)

    def nonzero(self, name: str) -> int:
        """Return how many values of a weight are stored that are not zero."""
        decoder = self.decoders.get(name)
        if decoder is None:
            return int(np.count_nonzero(numpy_helper.to_array(self.tensors[name])))
        roles = LAYOUTS[FUNCTIONS[decoder.op_type][0]].inputs(FUNCTIONS[decoder.op_type][1])
        return int(np.count_nonzero(numpy_helper.to_array(self.tensors[decoder.input[roles.index("values")]])))


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Infer the dimensions of all values of a graph with plain weights; None where one is not a whole number."""
    light = copy_without(model, "initializer")
    for tensor in model.graph.initializer:  # shapes depend on the values of small ones alone
        if math.prod(tensor.dims) <= SMALL:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    return {
        value.name: tuple(
            dimension.dim_value if dimension.HasField("dim_value") else None
            for dimension in value.type.tensor_type.shape.dim
        )
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    }
