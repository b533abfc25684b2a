"""What is done to an exported graph before its weights are encoded, on graphs put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from exporters import conformance, float16, graph_cleanup, onnx_files, proof, runtime, weight_matching
from granet.errors import ModelError
from tests.export_networks import Small

Arrays = dict[str, np.ndarray[Any, Any]]
CHANNELS = 4


def rand(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def norm(source: str, target: str, size: int, name: str = "norm") -> tuple[onnx.NodeProto, Arrays]:
    parts = {part: rand(size) for part in ("gamma", "beta", "mean")} | {"variance": np.abs(rand(size)) + 0.5}
    values = {f"{name}.{part}": value + number for number, (part, value) in enumerate(parts.items())}
    return helper.make_node("BatchNormalization", [source, *values], [target], name=name, epsilon=1e-3), values


def graph(
    nodes: list[onnx.NodeProto], values: Arrays, shape: list[int | str], *, outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *"abc"[: len(shape) - 1]]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(made, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def run(model: onnx.ModelProto, folder: Path, *inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    onnx_files.write(folder / "m.onnx", model)
    return runtime.open_session(folder / "m.onnx").run(list(inputs))


def folded(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    """How many norms of a model were folded, and what is left of it."""
    graph = ir.from_proto(model)
    return graph_cleanup.fold_norms_(graph), graph_cleanup.serialize(graph)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


LAYERS: dict[str, tuple[str, Arrays, dict[str, Any], int, int]] = {
    # operator, weight and bias, attributes, channels behind it, dimensions of a picture
    "conv": ("Conv", {"w": rand(6, 4, 3, 3), "b": rand(6)}, {}, 6, 2),
    "conv-without-bias": ("Conv", {"w": rand(6, 4, 3, 3)}, {}, 6, 2),
    "conv-grouped": ("Conv", {"w": rand(6, 2, 3, 3), "b": rand(6)}, {"group": 2}, 6, 2),
    "conv-1d": ("Conv", {"w": rand(6, 4, 3), "b": rand(6)}, {}, 6, 1),
    "transposed": ("ConvTranspose", {"w": rand(4, 6, 3, 3), "b": rand(6)}, {}, 6, 2),
    "transposed-grouped": ("ConvTranspose", {"w": rand(4, 3, 3, 3)}, {"group": 2}, 6, 2),
    "linear": ("Gemm", {"w": rand(6, 4), "b": rand(6)}, {"transB": 1}, 6, 0),
    "linear-straight": ("Gemm", {"w": rand(4, 6)}, {}, 6, 0),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@every_layer
def test_a_norm_behind_a_layer_is_folded(tmp_path: Path, layer: Any) -> None:
    operator, values, attributes, channels, dimensions = layer
    batch_norm, parts = norm("h", "y", channels)
    nodes = [helper.make_node(operator, ["x", *values], ["h"], **attributes), batch_norm]
    model = graph(nodes, values | parts, ["n", CHANNELS, *[8] * dimensions])
    x = rand(3, CHANNELS, *[8] * dimensions)
    before = run(model, tmp_path, x)[0]
    count, model = folded(model)
    assert count == 1
    assert operators(model) == [operator]
    assert len(model.graph.initializer) == 2
    np.testing.assert_allclose(run(model, tmp_path, x)[0], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["conv", "conv-without-bias", "conv-grouped", "conv-1d", "linear", "linear-straight"])
def test_a_norm_before_a_layer_is_folded(tmp_path: Path, layer: str) -> None:
    operator, values, attributes, _, dimensions = LAYERS[layer]
    batch_norm, parts = norm("x", "h", CHANNELS)
    nodes = [batch_norm, helper.make_node(operator, ["h", *values], ["y"], **attributes)]
    model = graph(nodes, values | parts, ["n", CHANNELS, *[8] * dimensions])
    x = rand(3, CHANNELS, *[8] * dimensions)
    before = run(model, tmp_path, x)[0]
    count, model = folded(model)
    assert count == 1
    assert operators(model) == [operator]
    np.testing.assert_allclose(run(model, tmp_path, x)[0], before, rtol=1e-4, atol=1e-5)


def test_a_norm_on_both_sides_is_folded(tmp_path: Path) -> None:
    (first, one), (second, two) = norm("x", "h", 4), norm("z", "y", 6, "other")
    values = {"w": rand(6, 4, 3, 3)}
    model = graph([first, helper.make_node("Conv", ["h", "w"], ["z"]), second], values | one | two, ["n", 4, 8, 8])
    before = run(model, tmp_path, rand(2, 4, 8, 8))[0]
    count, model = folded(model)
    assert count == 2
    np.testing.assert_allclose(run(model, tmp_path, rand(2, 4, 8, 8))[0], before, rtol=1e-4, atol=1e-5)


def conv(source: str, target: str, weight: str = "w", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [target], **attributes)


KEPT = {
    "a padded layer would pad with zeros": [norm("x", "h", 4)[0], conv("h", "y", pads=[1, 1, 1, 1])],
    "so would one that pads by itself": [norm("x", "h", 4)[0], conv("h", "y", auto_pad="SAME_UPPER")],
    "a transposed layer pads in its own way": [
        norm("x", "h", 4)[0],
        helper.make_node("ConvTranspose", ["h", "w"], ["y"]),
    ],
    "the weight is used twice": [conv("x", "g"), conv("g", "h"), norm("h", "y", 4)[0]],
    "somebody reads the value between": [
        conv("x", "h"),
        norm("h", "g", 4)[0],
        helper.make_node("Add", ["g", "h"], ["y"]),
    ],
    "something is in between": [conv("x", "g"), helper.make_node("Relu", ["g"], ["h"]), norm("h", "y", 4)[0]],
}


@pytest.mark.parametrize("nodes", KEPT.values(), ids=KEPT)
def test_a_norm_that_cannot_be_folded_stays(nodes: list[onnx.NodeProto]) -> None:
    model = graph(nodes, {"w": rand(4, 4, 3, 3), **norm("h", "y", 4)[1]}, ["n", 4, 8, 8])
    assert folded(model) == (0, model)


def test_only_named_weights_lose_their_negative_zeros() -> None:
    zeros = np.array([[-0.0, 1.0], [0.0, -2.0]], np.float32)
    model = graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": zeros, "b": -zeros[0]}, ["n", 2])
    traced = ir.from_proto(model)
    graph_cleanup.positive_zeros_(traced, ["w"])
    weight, bias = (value.const_value.numpy() for value in traced.graph.initializers.values())
    assert np.array_equal(weight, zeros)
    assert not np.signbit(weight[zeros == 0]).any()
    assert not np.signbit(bias[0])
    assert np.signbit(bias[1])


def test_serialized_graphs_have_no_paths_of_the_machine() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"], doc_string="/home/me/net.py")], {"w": rand(2)}, ["n", 2])
    for item in (model, model.graph, model.graph.node[0], model.graph.input[0], model.graph.initializer[0]):
        item.metadata_props.add(key="stack_trace", value="/home/me/net.py")
    model.graph.value_info.add(name="h", doc_string="/home/me/net.py")
    assert b"/home" not in graph_cleanup.serialize(ir.from_proto(model)).SerializeToString()


def halved(tmp_path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    half = graph_cleanup.serialize(float16.halve(ir.from_proto(model)))
    onnx_files.write(tmp_path / "m.onnx", half)
    conformance.check(tmp_path / "m.onnx")
    return half


def test_a_graph_in_fp16_takes_and_gives_fp32(tmp_path: Path) -> None:
    values = {"w": rand(6, 4, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    nodes = [
        conv("x", "h"),
        helper.make_node("Resize", ["h", "", "scales"], ["big"], mode="linear"),
        helper.make_node("Cast", ["big"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2.0))),
        helper.make_node("Mul", ["cast", "two"], ["y"]),
    ]
    model = graph(nodes, values, ["n", 4, 8, 8])
    x = rand(3, 4, 8, 8)
    before, half = run(model, tmp_path, x)[0], halved(tmp_path, model)
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert kinds == {"w": TensorProto.FLOAT16, "scales": TensorProto.FLOAT}
    after = run(half, tmp_path, x)[0]
    assert after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < 0.01 * np.abs(before).max()


def test_operators_that_return_fp32_by_default_return_fp16(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["row"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Sum", ["x", "zeros", "half", "row"], ["y"]),
    ]
    x = rand(3, 4)
    given = run(halved(tmp_path, graph(nodes, {}, ["n", 4])), tmp_path, x)[0]
    np.testing.assert_allclose(given, x + 0.5 + np.arange(1, 5), rtol=1e-2)


def test_integers_stay_integers_in_fp16(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["y"], axis=1, keepdims=1),
    ]
    model = graph(nodes, {}, ["n", 4])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert run(halved(tmp_path, model), tmp_path, rand(3, 4))[0].dtype == np.int64


def test_a_value_beyond_fp16_is_named() -> None:
    model = graph([conv("x", "y")], {"w": rand(4, 4, 1, 1) * np.float32(1e5)}, ["n", 4, 8, 8])
    with pytest.raises(ModelError, match=r"^w: a value is beyond the range of fp16; got -?\d+; expected at most 65504"):
        float16.halve(ir.from_proto(model))


def test_graphs_with_branches_cannot_be_converted_to_fp16() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [helper.make_empty_tensor_value_info("z")]
    )
    nodes = [helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=branch, else_branch=branch)]
    with pytest.raises(ModelError, match="choice"):
        float16.halve(ir.from_proto(graph(nodes, {"flag": np.array(True)}, ["n", 4])))


def test_a_model_that_does_not_conform_is_an_error(tmp_path: Path) -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": rand(5, 4)}, ["n", 4])
    onnx_files.write(tmp_path / "m.onnx", model)
    with pytest.raises(ModelError, match="does not conform to ONNX"):
        conformance.check(tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


# Weights of the network in the graph


def weights_of(model: torch.nn.Module) -> Arrays:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def test_a_weight_with_more_than_its_active_values_is_named() -> None:
    model = Small()
    masks = {"first.weight": torch.zeros(16, 3, 3, 3, dtype=torch.bool)}
    masks["first.weight"].view(-1)[:432] = True
    masks["first.weight"].view(-1)[0] = False
    made = graph([conv("x", "y", "first.weight")], weights_of(model), ["n", 3, 8, 8])
    with pytest.raises(ModelError, match=r"first.weight: .*got 432 weights that are not zero, 1 of them inactive"):
        weight_matching.match(ir.from_proto(made.graph), model, masks)


def test_a_missing_weight_is_named() -> None:
    model = Small()
    masks = {"hidden.weight": torch.ones(32, 16, dtype=torch.bool)}
    values = {name: value for name, value in weights_of(model).items() if name != "hidden.weight"}
    made = graph([], values, ["n", 3, 8, 8])
    with pytest.raises(ModelError, match=r"hidden.weight: a masked weight is not in the exported graph"):
        weight_matching.match(ir.from_proto(made.graph), model, masks)
    assert "hidden.weight" not in {
        weight.name
        for weight in weight_matching.match(ir.from_proto(made.graph), model, masks, unused={"hidden.weight"})
    }


def test_a_transposed_weight_without_a_name_is_found() -> None:
    model = Small()
    values = weights_of(model)
    values["val_3"] = np.ascontiguousarray(values.pop("hidden.weight").T)
    found = weight_matching.match(ir.from_proto(graph([], values, ["n"]).graph), model, {})
    assert {weight.tensor for weight in found if weight.name == "hidden.weight"} == {"val_3"}


@pytest.mark.parametrize(
    ("precision", "change", "expected"),
    [
        ("fp32", 1.0, None),
        ("fp32", 1.0 + 2**-20, "originals within the precision of fp32; got 24"),
        ("fp16", 1.0 + 2**-12, None),
        ("fp16", 1.0 + 2**-9, "originals within the precision of fp16"),
        ("int8", 1.0 + 1 / 300, None),
        ("int8", 1.0 + 1 / 50, "originals within the precision of int8"),
    ],
)
def test_stored_values_are_compared_within_their_precision(precision: str, change: float, expected: str | None) -> None:
    exact = graph([], {"w": rand(6, 4)}, ["n"]).graph
    stored = graph([], {"w": (rand(6, 4) * change).astype(np.float32)}, ["n"]).graph
    if expected is None:
        proof.check_stored(exact, stored, precision)
    else:
        with pytest.raises(ModelError, match=f"w: .*{expected}"):
            proof.check_stored(exact, stored, precision)


def test_a_zero_must_come_back_as_zero() -> None:
    values = rand(6, 4)
    values[0, 0] = 0
    changed = values.copy()
    changed[0, 0] = 1e-6
    with pytest.raises(ModelError, match="got 1 of 24"):
        proof.check_stored(graph([], {"w": values}, ["n"]).graph, graph([], {"w": changed}, ["n"]).graph, "int8")
    with pytest.raises(ModelError, match="lost"):
        proof.check_stored(graph([], {"w": values}, ["n"]).graph, graph([], {}, ["n"]).graph, "fp32")


def test_a_tensor_that_became_a_constant_is_not_lost() -> None:
    values = np.array([-1, 576])
    constant = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(values))
    exact, stored = graph([], {"shape": values}, ["n"]).graph, graph([constant], {}, ["n"]).graph
    proof.check_stored(exact, stored, "fp32")
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(values + 1))
    with pytest.raises(ModelError, match="shape: "):
        proof.check_stored(exact, graph([constant], {}, ["n"]).graph, "fp32")
