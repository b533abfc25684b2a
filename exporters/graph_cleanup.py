"""One graph for one network: nothing in it about the machine that traced it, no batch norm that arithmetic can spare.

torch folds the batch norms behind convolutions and linear layers already. What it leaves is folded here where that is
exact but for rounding: behind layers it passed over, and in front of layers that read a batch norm directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Wide = NDArray[np.float64]


def strip_(model: onnx.ModelProto) -> None:
    """Takes away, in place, what torch notes for debugging: paths and lines of source code, scopes, inferred shapes.

    Shapes of intermediate values can be inferred again, and would be wrong after a change of the number format.
    """
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def positive_zeros_(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Makes +0.0, in place, of every -0.0 in the initializers ``names``.

    Masks multiply negative weights by zero, and batch norms zeros by negative scales. As a weight the two zeros are one
    number, but only +0.0 is what a decoder leaves where it writes nothing.
    """
    for tensor in model.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor)
            if np.signbit(values[values == 0]).any():
                tensor.CopyFrom(
                    numpy_helper.from_array(np.where(values == 0, values.dtype.type(0), values), tensor.name)
                )


def fold_norms_(model: onnx.ModelProto) -> int:
    """Folds batch norms into a convolution or linear layer before or behind them, in place; returns how many.

    One is folded when nothing else sees the value in between, and the layer's weight is nobody else's. Into a layer
    behind, moreover, only when that pads nothing: padding puts zeros where the norm would put its shift. Computed in
    double precision and rounded once.
    """
    folded = 0
    while (pair := next(_foldable(model.graph), None)) is not None:
        norm, layer, behind = pair
        _fold_back(model.graph, norm, layer) if behind else _fold_ahead(model.graph, norm, layer)
        model.graph.node.remove(norm)
        folded += 1
    drop_unused_(model)
    return folded


def drop_unused_(model: onnx.ModelProto) -> None:
    """Removes initializers that nothing reads, in place."""
    used = set(_uses(model.graph))
    keep = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(keep) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(keep)


def _uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often each value is read, in subgraphs too, and by whoever takes the outputs."""
    uses = Counter(value.name for value in graph.output)
    for node in graph.node:
        uses.update(node.input)
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                uses.update(_uses(inner))
    return uses


def _foldable(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto, bool]]:
    """Batch norms with the layer to fold them into, and whether the norm comes behind it."""
    uses, constants = _uses(graph), {tensor.name for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    readers = {name: node for node in graph.node for name in node.input}

    def is_private(layer: onnx.NodeProto) -> bool:
        known = all(name in constants for name in layer.input[1:] if name)
        return _is_plain(layer) and known and uses[layer.input[1]] == 1

    for norm in graph.node:
        if norm.op_type != "BatchNormalization" or _attribute(norm, "training_mode", 0):
            continue
        if not all(name in constants for name in norm.input[1:]):
            continue
        before, after = makers.get(norm.input[0]), readers.get(norm.output[0])
        if before is not None and uses[norm.input[0]] == 1 and is_private(before):
            yield norm, before, True
        elif after is not None and uses[norm.output[0]] == 1 and is_private(after) and _takes_shift(after, norm):
            yield norm, after, False


def _is_plain(layer: onnx.NodeProto) -> bool:
    if layer.op_type == "Gemm":
        return not _attribute(layer, "transA", 0) and all(_attribute(layer, x, 1.0) == 1.0 for x in ("alpha", "beta"))
    return layer.op_type in ("Conv", "ConvTranspose")


def _takes_shift(layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Whether a constant added to each channel before the layer adds a constant to each channel behind it."""
    if layer.input[0] != norm.output[0]:  # it could be read as a weight
        return False
    if layer.op_type == "Conv":
        padded = any(_attribute(layer, "pads", ())) or _attribute(layer, "auto_pad", b"NOTSET") in (
            b"SAME_UPPER",
            b"SAME_LOWER",
        )
        return not padded
    return layer.op_type == "Gemm"


def _fold_back(graph: onnx.GraphProto, norm: onnx.NodeProto, layer: onnx.NodeProto) -> None:
    scale, shift = _affine(graph, norm)
    weight, bias = _weight(graph, layer), _bias(graph, layer)
    # The output channels are the first axis of a convolution, the second within each group of a transposed one.
    if layer.op_type == "Gemm":
        scaled = weight * (scale[:, None] if _attribute(layer, "transB", 0) else scale)
    elif layer.op_type == "Conv":
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        groups = _attribute(layer, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (grouped * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    _put(graph, layer, scaled, bias * scale + shift)
    layer.output[0] = norm.output[0]


def _fold_ahead(graph: onnx.GraphProto, norm: onnx.NodeProto, layer: onnx.NodeProto) -> None:
    scale, shift = _affine(graph, norm)
    weight, bias = _weight(graph, layer), _bias(graph, layer)
    if layer.op_type == "Gemm":
        by_output = weight if _attribute(layer, "transB", 0) else weight.T
        scaled, added = by_output * scale, by_output @ shift
        scaled = scaled if _attribute(layer, "transB", 0) else scaled.T
    else:
        groups = _attribute(layer, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        trailing = [1] * (weight.ndim - 2)
        scaled = (grouped * scale.reshape(groups, 1, -1, *trailing)).reshape(weight.shape)
        added = (grouped * shift.reshape(groups, 1, -1, *trailing)).reshape(len(weight), -1).sum(1)
    _put(graph, layer, scaled, bias + added)
    layer.input[0] = norm.input[0]


def _affine(graph: onnx.GraphProto, norm: onnx.NodeProto) -> tuple[Wide, Wide]:
    """The norm as a scale and a shift of each channel."""
    gamma, beta, mean, variance = (_tensor(graph, name) for name in norm.input[1:5])
    scale = gamma / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _weight(graph: onnx.GraphProto, layer: onnx.NodeProto) -> Wide:
    return _tensor(graph, layer.input[1])


def _bias(graph: onnx.GraphProto, layer: onnx.NodeProto) -> Wide:
    if len(layer.input) > 2 and layer.input[2]:
        return _tensor(graph, layer.input[2])
    return np.zeros(1)


def _put(graph: onnx.GraphProto, layer: onnx.NodeProto, weight: Wide, bias: Wide) -> None:
    """Gives the layer another weight under its old name, and a bias under a new one: others may read the old bias."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    old = tensors[layer.input[1]]
    dtype = numpy_helper.to_array(old).dtype
    old.CopyFrom(numpy_helper.from_array(weight.astype(dtype), old.name))
    name = f"{layer.input[1]}.folded_bias"
    while name in tensors:
        name += "_"
    graph.initializer.append(numpy_helper.from_array(bias.astype(dtype), name))
    del layer.input[2:]
    layer.input.append(name)


def _tensor(graph: onnx.GraphProto, name: str) -> Wide:
    found = next(tensor for tensor in graph.initializer if tensor.name == name)
    return numpy_helper.to_array(found).astype(np.float64)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
