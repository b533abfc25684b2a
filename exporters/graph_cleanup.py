"""Passes over a traced graph: fold batch norms, remove what describes the machine that traced it.

torch folds most batch norms behind convolutions and linear layers. The rest are folded here where that is exact up to
rounding: behind layers that torch passed over, and in front of layers that read a batch norm directly.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def serialize(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` as protocol buffers, without paths and lines of source code, scopes, and inferred shapes.

    Shapes of intermediate values can be inferred again, and would be wrong after a change of the number format.
    """
    proto = ir.to_proto(model)
    graph = proto.graph
    graph.ClearField("value_info")
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return proto


def positive_zeros_(model: ir.Model, names: Collection[str]) -> None:
    """Replace every -0.0 in the initializers ``names`` by +0.0, in place.

    Masks multiply negative weights by zero, and batch norms zeros by negative scales. As a weight the two zeros are one
    number, but only +0.0 is what a decoder leaves where it writes nothing.
    """
    for name in names:
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(_constant(value).numpy() + 0, name=name)


def fold_norms_(model: ir.Model) -> int:
    """Fold batch norms into a convolution or linear layer before or behind them, in place; return how many.

    One is folded when nothing else reads the value in between, and no other layer has the layer's weight. Into a layer
    behind it, moreover, only when that layer pads nothing: padding inserts zeros where the norm would insert its shift.
    Computed in double precision and rounded once.
    """
    graph, folded = model.graph, 0
    while any(_fold_(graph, node) for node in graph if node.op_type == "BatchNormalization"):
        folded += 1
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    return folded


def _fold_(graph: ir.Graph, norm: ir.Node) -> bool:
    """Fold one batch norm if that is possible; return whether it was."""
    source, result = norm.inputs[0], norm.outputs[0]
    if source is None or norm.attributes.get_int("training_mode") or not _are_constant(norm.inputs[1:]):
        return False
    gamma, beta, mean, variance = (_double(value) for value in norm.inputs[1:5])
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    shift = beta - mean * scale
    before = source.producer()
    if before is not None and _is_only_use(source) and _is_foldable(before):
        weight, channels = _weight(before)
        channels *= _along(scale, channels, 1)
        _set_weight_(graph, before, weight, _bias(before) * scale + shift)
        ir.convenience.replace_nodes_and_values(graph, before, [norm], [], [result], [source])
        return True
    after = result.consumers()[0] if _is_only_use(result) else None
    if after is not None and _is_foldable(after) and _adds_shift(after):
        weight, channels = _weight(after)
        added = (channels * _along(shift, channels, 2)).sum(axis=tuple(range(2, channels.ndim))).reshape(-1)
        channels *= _along(scale, channels, 2)
        _set_weight_(graph, after, weight, _bias(after) + added)
        after.replace_input_with(0, source)
        graph.remove(norm, safe=True)
        return True
    return False


def _is_only_use(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _are_constant(values: Collection[ir.Value | None]) -> bool:
    return all(value is None or value.is_initializer() for value in values)


def _is_foldable(layer: ir.Node) -> bool:
    """Whether a layer is linear in its input, with a constant weight that no other layer has."""
    weight = layer.inputs[1] if len(layer.inputs) > 1 else None
    if layer.op_type == "Gemm":
        plain = not layer.attributes.get_int("transA", 0)
        plain &= all(layer.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    else:
        plain = layer.op_type in ("Conv", "ConvTranspose")
    return plain and weight is not None and _are_constant(layer.inputs[1:]) and _is_only_use(weight)


def _adds_shift(layer: ir.Node) -> bool:
    """Whether a constant added to each input channel adds a constant to each output channel."""
    if layer.op_type == "Conv":
        padded = any(layer.attributes.get_ints("pads", ()))
        return not padded and layer.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return layer.op_type == "Gemm"


def _weight(layer: ir.Node) -> tuple[Doubles, Doubles]:
    """The weight of a layer, and a view of it as [groups, output channels, input channels, ...]."""
    weight = _double(layer.inputs[1])
    if layer.op_type == "Gemm":
        return weight, (weight if layer.attributes.get_int("transB", 0) else weight.T)[None]
    groups = layer.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return weight, grouped if layer.op_type == "Conv" else grouped.swapaxes(1, 2)


def _along(values: Doubles, channels: Doubles, axis: int) -> Doubles:
    """``values``, one for each channel of all groups, in a shape that broadcasts along ``axis`` of ``channels``."""
    shape = [len(channels)] + [1] * (channels.ndim - 1)
    shape[axis] = -1
    return values.reshape(shape)


def _bias(layer: ir.Node) -> Doubles:
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    return np.zeros(1) if bias is None else _double(bias)


def _set_weight_(graph: ir.Graph, layer: ir.Node, weight: Doubles, bias: Doubles) -> None:
    """Replace the layer's weight under its name, and its bias under a new one: other layers may have the old bias."""
    value = layer.inputs[1]
    assert value is not None  # noqa: S101  a foldable layer has a weight
    dtype = _constant(value).dtype.numpy()
    value.const_value = ir.tensor(weight.astype(dtype), name=value.name)
    name = f"{value.name}.folded_bias"
    while name in graph.initializers:
        name += "_"
    added = ir.Value(name=name, const_value=ir.tensor(bias.astype(dtype), name=name))
    graph.register_initializer(added)
    layer.resize_inputs(3)
    layer.replace_input_with(2, added)


def _constant(value: ir.Value | None) -> ir.TensorProtocol:
    assert value is not None  # noqa: S101  callers have looked
    assert value.const_value is not None  # noqa: S101  every initializer has it
    return value.const_value


def _double(value: ir.Value | None) -> Doubles:
    return _constant(value).numpy().astype(np.float64)
