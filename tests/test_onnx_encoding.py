"""Encodings of ONNX initializers: what a session computes, what a file weighs, and what is left alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxsim
import onnxslim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding import (
    Encoded,
    choose,
    decoder_functions,
    encodable,
    encode,
    encoder,
    inflate,
    inflate_with_names,
    layouts,
)
from exporters.encoding.decode import WeightReader, scopes
from granet import allocation
from granet.errors import ModelError, UnknownNameError
from granet.masks.codec import ENCODINGS
from tests.onnx_graphs import conv, initializer, model, product, run

Array = NDArray[Any]

DECODED = ("gaps8", "gaps4", "bitmask")
LAYOUTS = [
    (layout, opset)
    for layout in decoder_functions.LAYOUTS
    for opset in (13, 20, 21)  # the oldest with all operators, torch's default, the first with elements of four bits
    if layout != "Dense" and (layout != "Gaps4" or opset == 21)
]


def random(shape: Sequence[int], density: float, dtype: Any = np.float32, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(shape).astype(dtype)
    return np.where(generator.random(shape) < density, values, values.dtype.type(0))


def only(values: Array, encoding: str, precision: str = "fp32", **options: Any) -> tuple[onnx.ModelProto, Encoded]:
    """A model with this weight, and the same encoded."""
    plain = product(values, **options)
    return plain, encode(plain, encoding=encoding, precision=precision, scope=["w"])


def laid_out(values: Array, layout: str, opset: int) -> tuple[onnx.ModelProto, Encoded]:
    """The same with a layout that need not be the best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "_allowed", lambda *_, **__: [layout])
        return only(values, "auto", opset=opset)


def check(graph: onnx.ModelProto) -> None:
    """What the standard says of a model, as strictly as it can."""
    onnx.checker.check_model(graph, full_check=True)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)


def at(size: int, *positions: int) -> Array:
    values = np.zeros(size, np.float32)
    values[list(positions)] = np.arange(1, len(positions) + 1)
    return values.reshape(1, -1)


@st.composite
def weights(draw: st.DrawFn) -> Array:
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    bits = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
    values = draw(st.lists(bits, min_size=1, max_size=8))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.7, 1.0]))
    size = math.prod(shape)
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    chosen = generator.choice(np.array(values, np.float32), size) * (generator.random(size) < density)
    return np.where(chosen == 0, np.float32(0), chosen).reshape(shape)


# What a session computes


@given(values=weights(), layout=st.sampled_from(LAYOUTS))
@settings(max_examples=50, deadline=None)
def test_a_session_computes_the_same_bits_with_encoded_weights(values: Array, layout: tuple[str, int]) -> None:
    plain, encoded = laid_out(values, *layout)
    assert encoded.encodings == {"w": decoder_functions.LAYOUTS[layout[0]].encoding}
    for level in ("basic", "all", "disabled"):
        outputs, operators = run(plain, level)
        found, left = run(encoded.model, level)
        assert found == outputs
        if level != "disabled":
            assert left == operators  # no trace of a decoder
    check(encoded.model)
    assert initializer(inflate(encoded.model), "w").tobytes() == values.tobytes()


EDGES = {
    "nothing is active": np.zeros((3, 40), np.float32),
    "nothing is active, for long": np.zeros((3, 4000), np.float32),
    "everything is": random((5, 5), 1),
    "a single weight": at(1, 0),
    "a single zero": np.zeros((1, 1), np.float32),
    "the first of many": at(3000, 0),
    "the last of many": at(3000, 2999),
    "gaps of just a filler": at(800, 14, 30, 254, 510),
    "gaps of a filler and nothing": at(2000, 15, 31, 287, 543, 1309),
    "both ends and little between": at(70_000, 0, 1, 65_536, 69_999),
    "a half byte is left over": at(50, 3, 20, 40),
    "no room behind the last code": at(17, 15, 16),
    "not finite": np.array([[np.nan, 0, np.inf, -np.inf, 0]], np.float32),
    "denormal": np.array([[1e-45, 0, -1e-45, 1e-40]], np.float32),
}


@pytest.mark.parametrize(("layout", "opset"), [*((x, y) for x, y in LAYOUTS if y > 13), ("coo", 20)])
@pytest.mark.parametrize("case", EDGES)
def test_edge_cases_of_every_layout(case: str, layout: str, opset: int) -> None:
    values = EDGES[case]
    plain, encoded = laid_out(values, layout, opset)
    assert [function.name for function in encoded.model.functions] == ([layout] if layout != "coo" else [])
    assert run(encoded.model) == run(plain)
    assert initializer(inflate(encoded.model), "w").tobytes() == values.tobytes()


@pytest.mark.parametrize("encoding", [*DECODED, "coo", "dense", "auto"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_precision_is_decoded_as_it_is_inflated(dtype: Any, precision: str, encoding: str) -> None:
    plain = conv(random((16, 8, 3, 3), 0.2, dtype))
    encoded = encode(plain, encoding=encoding, precision=precision, scope=["w"])
    inflated = inflate(encoded.model)
    assert run(encoded.model) == run(inflated)
    assert run(encoded.model, "all")[0] == run(inflated, "all")[0]
    assert initializer(inflated, "w").dtype == dtype
    if encoding != "coo":
        check(encoded.model)


def test_negative_zeros_are_not_stored() -> None:
    values = np.array([[0.0, -0.0, 1.0, -0.0]], np.float32)
    for encoding in (*DECODED, "coo"):
        _, encoded = only(values, encoding)
        assert encoded.tensors[0].active == 1
        assert initializer(inflate(encoded.model), "w").tobytes() == np.array([[0, 0, 1, 0]], np.float32).tobytes()


def test_a_weight_may_be_used_twice_and_inside_a_branch() -> None:
    values = random((40, 40), 0.1)
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner"])],
        "branch",
        [],
        [onnx.ValueInfoProto(name="inner", type=helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 40]))],
        [numpy_helper.from_array(random((40, 40), 0.1), "own")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["inside"], then_branch=branch, else_branch=branch),
        helper.make_node("Gemm", ["x", "w"], ["once"]),
        helper.make_node("Gemm", ["once", "w", "inside"], ["y"]),
    ]
    plain = model(nodes, {"w": values}, {"x": [2, 40]})
    encoded = encode(plain, encoding="gaps8", precision="fp32", scope=["w"])
    assert encoded.encodings == {"w": "gaps8"}
    assert run(encoded.model) == run(plain)
    assert inflate(encoded.model).graph.node == plain.graph.node


# What values become


def test_fp16_rounds_to_the_nearest_and_counts_weights_that_vanish() -> None:
    values = np.array([[1 + 2**-12, 1e-9, -1e-9, 65519.0]], np.float32)
    _, encoded = only(values, "gaps8", "fp16")
    assert initializer(inflate(encoded.model), "w").tolist() == [[1.0, 0.0, 0.0, 65504.0]]
    (tensor,) = encoded.tensors
    assert (tensor.active, tensor.vanished, tensor.precision) == (2, 2, "fp16")
    assert encoded.remarks == ("2 weights are too small for fp16 and become zero",)


@pytest.mark.parametrize("value", [65520.0, -1e30])
def test_a_value_beyond_fp16_is_an_error_that_names_the_weight(value: float) -> None:
    with pytest.raises(ModelError, match=rf"^w: .*beyond the range of fp16; got {value:g}".replace("+", r"\+")):
        only(np.array([[1.0, value, 0.0]], np.float32), "auto", "fp16")


def test_infinity_is_no_overflow() -> None:
    _, encoded = only(np.array([[np.inf, 0.0, 1.0]], np.float32), "gaps8", "fp16")
    assert initializer(inflate(encoded.model), "w").tolist() == [[np.inf, 0.0, 1.0]]


def test_int8_steps_by_the_largest_weight_of_each_output_channel() -> None:
    values = np.array([[127.0, 0.4, -3.0], [0.0, 0.0, 0.0], [-0.5, 0.25, 1e-4]], np.float32)
    plain = model([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": values}, {"x": [1, 3]})
    encoded = encode(plain, encoding="gaps8", precision="int8", scope=["w"])
    step = np.float32(0.5 / 127)
    expected = np.array([[127, 0, -3], [0, 0, 0], [-127 * step, np.float32(64) * step, 0]], np.float32)
    assert initializer(inflate(encoded.model), "w").tolist() == expected.tolist()
    assert encoded.tensors[0].vanished == 2


@pytest.mark.parametrize(
    ("node", "shape", "scales"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), (6, 4, 3, 3), (6, 1, 1, 1)),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (6, 4, 3, 3), (1, 4, 1, 1)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (6, 4), (6, 1)),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (6, 4), (1, 4)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 6, 4), (1, 1, 4)),
        (helper.make_node("Add", ["x", "w"], ["y"]), (9,), (1,)),
    ],
)
def test_the_scales_of_int8_lie_along_the_output_channels(
    node: onnx.NodeProto, shape: tuple[int, ...], scales: tuple[int, ...]
) -> None:
    plain = model([node], {"w": random(shape, 0.5)}, {"x": ["n"]})
    encoded = encode(plain, encoding="bitmask", precision="int8", scope=["w"])
    assert initializer(encoded.model, "w/scales").shape == scales


def test_int8_survives_channels_too_small_for_a_scale() -> None:
    _, encoded = only(np.full((1, 3), 1e-44, np.float32), "gaps8", "int8")
    assert initializer(inflate(encoded.model), "w").tolist() == [[0.0, 0.0, 0.0]]


def test_int8_refuses_weights_that_are_not_finite() -> None:
    with pytest.raises(ModelError, match="w: a weight that is not finite"):
        only(np.array([[1.0, np.nan]], np.float32), "gaps8", "int8")


# What a file weighs


def sparse_network(density: float) -> onnx.ModelProto:
    """Layers as of a residual network at their ERK densities, 590,000 weights."""
    shapes = {"a": (64, 32, 3, 3), "b": (128, 64, 3, 3), "c": (256, 128, 3, 3), "d": (256, 256, 1, 1), "e": (100, 256)}
    budgets = allocation.erk(shapes, density)
    generator = np.random.default_rng(1)
    values = {}
    for name, shape in shapes.items():
        flat = np.zeros(math.prod(shape), np.float32)
        chosen = generator.permutation(flat.size)[: budgets[name]]
        flat[chosen] = generator.standard_normal(chosen.size)
        values[name] = flat.reshape(shape)
    return model([helper.make_node("Sum", list(shapes), ["y"])], values, {"x": [1]})


@pytest.mark.parametrize("density", [0.02, 0.05, 0.1, 0.2])
def test_auto_comes_within_five_per_cent_of_the_entropy_limit(density: float) -> None:
    plain = sparse_network(density)
    encoded = encode(plain, encoding="auto", precision="fp32", scope="abcde")
    stored = sum(tensor.bytes for tensor in encoded.tensors) + encoded.shared_bytes
    limit = sum(tensor.limit_bytes for tensor in encoded.tensors)
    assert stored < 1.05 * limit + 4000  # decoders are nothing beside a real network
    for other in ("gaps8", "gaps4", "bitmask", "dense"):
        fixed = encode(plain, encoding=other, precision="fp32", scope="abcde")
        assert encoded.model.ByteSize() < 1.01 * fixed.model.ByteSize()


def test_sizes_of_tensors_and_decoders_add_up_to_the_file() -> None:
    plain = sparse_network(0.1)
    bare = onnx.ModelProto()
    bare.CopyFrom(plain)
    del bare.graph.initializer[:]
    for encoding in ("auto", "gaps8", "coo", "dense"):
        for precision in ("fp32", "int8"):
            encoded = encode(plain, encoding=encoding, precision=precision, scope="abcde")
            stored = sum(tensor.bytes for tensor in encoded.tensors) + encoded.shared_bytes
            assert abs(encoded.model.ByteSize() - bare.ByteSize() - stored) <= 4  # the graph's own length


def test_auto_leaves_tensors_that_would_not_shrink() -> None:
    for values in (random((8, 8), 1.0), random((8, 8), 0.5), random((20,), 0.1)):
        plain, encoded = only(values, "auto")
        assert encoded.encodings == {"w": "dense"}
        assert encoded.model == plain


def test_decoders_are_shared_and_unused_ones_are_not_stored() -> None:
    small = {f"w{index}": random((8, 8, 3, 3), 0.1, seed=index) for index in range(30)}
    nodes = [helper.make_node("Sum", list(small), ["y"])]
    alone = encode(model(nodes, small, {"x": [1]}), encoding="auto", precision="fp32", scope=["w0"])
    together = encode(model(nodes, small, {"x": [1]}), encoding="auto", precision="fp32", scope=list(small))
    assert len(together.model.functions) < len(set(together.encodings.values())) + 1
    assert "dense" not in together.encodings.values()
    assert len(alone.model.functions) <= 1


def test_the_cheapest_set_of_decoders_is_found() -> None:
    options = [{"plain": 100, "a": 60, "b": 55}, {"plain": 100, "a": 60, "b": 70}, {"plain": 10, "a": 20, "b": 20}]
    assert choose.smallest(options, {"a": 30, "b": 30}) == ["a", "a", "plain"]
    assert choose.smallest(options, {"a": 30, "b": 1}) == ["b", "b", "plain"]
    assert choose.smallest(options, {"a": 90, "b": 90}) == ["plain", "plain", "plain"]
    assert choose.smallest([{"a": 5}, {"a": 7}], {"a": 1000}) == ["a", "a"]


def test_fast_decoders_are_preferred_where_they_cost_next_to_nothing() -> None:
    _, encoded = only(random((64, 64), 0.03), "gaps8")
    assert [function.name for function in encoded.model.functions] == ["Gaps8Steps"]
    _, sparser = only(random((256, 256), 0.005), "gaps8")  # where every fourth code is a filler
    assert [function.name for function in sparser.model.functions] == ["Gaps8"]


@pytest.mark.parametrize("layout", ["Gaps8", "Gaps4", "Gaps4Packed", "Bitmask"])
def test_positions_are_the_bytes_that_checkpoints_store(layout: str) -> None:
    values = random((701,), 0.1)
    found = np.flatnonzero(values)
    packed = layouts.pack(layout, values)
    positions = ENCODINGS[decoder_functions.LAYOUTS[layout].encoding].encode([found], 701).tobytes()
    stored = numpy_helper.from_array(packed.positions).raw_data
    assert stored in (positions, positions[:-1] + bytes([positions[-1] & 15]))  # a code of padding is 0 in UINT4
    assert stored == positions or (layout == "Gaps4" and packed.entries % 2)
    assert packed.values.tolist() == [0.0, *values[found].tolist()]


@pytest.mark.parametrize(
    ("layout", "positions", "entries", "values"),
    [
        ("Gaps8", "03 10", 2, [0, 1, 2]),
        ("Gaps8Steps", "03 11", 2, [1, 2]),
        ("Gaps4", "f3 f1", 4, [0, 1, 2]),
        ("Gaps4Packed", "f3 f1", 4, [0, 1, 2]),
        ("Bitmask", "08 00 10 00 00", 5, [0, 1, 2]),
    ],
)
def test_the_example_of_the_specification(layout: str, positions: str, entries: int, values: list[int]) -> None:
    packed = layouts.pack(layout, at(40, 3, 20).ravel())
    assert numpy_helper.from_array(packed.positions).raw_data == bytes.fromhex(positions)
    assert (packed.entries, packed.values.tolist()) == (entries, values)


# What is left alone


def test_the_model_that_was_given_is_not_changed() -> None:
    plain = product(random((30, 30), 0.1))
    before = plain.SerializeToString(deterministic=True)
    encode(plain, encoding="gaps4", precision="int8", scope=["w"])
    assert plain.SerializeToString(deterministic=True) == before


def test_tensors_that_cannot_be_encoded_stay_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodable, "LARGEST", 100)
    values = {
        "input": random((4, 4), 0.1),
        "output": random((4, 4), 0.1),
        "whole": np.ones((4, 4), np.int64),
        "double": random((4, 4), 0.1, np.float64),
        "scalar": np.float32(0).reshape(()),
        "empty": np.zeros((0, 4), np.float32),
        "large": random((11, 11), 0.1),
    }
    plain = model(
        [helper.make_node("Identity", ["input"], ["y"])], values, {"input": [4, 4], "x": [1]}, ["y", "output"]
    )
    brain = helper.make_tensor("brain", TensorProto.BFLOAT16, [2], [0.0, 1.0])
    plain.graph.initializer.append(brain)
    outside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[9], data_location=TensorProto.EXTERNAL)
    plain.graph.initializer.append(outside)
    encoded = encode(plain, encoding="gaps8", precision="fp16", scope=[*values, "brain", "outside"])
    assert encoded.model == plain
    assert set(encoded.encodings.values()) == {"dense"}
    reasons = {tensor.name: tensor.kept for tensor in encoded.tensors}
    assert reasons["input"] == "it is an input of the graph, which callers may replace"
    assert reasons["output"] == "it is an output of the graph"
    assert reasons["whole"] == "it is of type INT64"
    assert reasons["brain"] == "it is of type BFLOAT16"
    assert reasons["double"] == "it is of type DOUBLE"
    assert (reasons["scalar"], reasons["empty"]) == ("it is a scalar", "it is empty")
    assert reasons["outside"] == "its data are in another file, which was not read"
    assert reasons["large"] == "it is too large for ONNX Runtime to decode in advance"
    assert "double stays as it is: it is of type DOUBLE" in encoded.remarks


def test_weights_outside_the_scope_and_constants_are_not_touched() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(random((30, 30), 0.1)))
    nodes = [constant, helper.make_node("Sum", ["w", "other", "c"], ["y"])]
    plain = model(nodes, {"w": random((30, 30), 0.1), "other": random((30, 30), 0.1)}, {"x": [1]})
    encoded = encode(plain, encoding="gaps8", precision="fp32", scope=["w"])
    assert initializer(encoded.model, "other").tobytes() == initializer(plain, "other").tobytes()
    assert list(encoded.model.graph.node[1:]) == list(plain.graph.node)


def test_names_that_are_taken_are_avoided() -> None:
    plain = model(
        [helper.make_node("Sum", ["w", "w/values"], ["w/steps"]), helper.make_node("Identity", ["w/steps"], ["y"])],
        {"w": random((30, 30), 0.1), "w/values": random((30, 30), 1)},
        {"x": [1]},
    )
    encoded = encode(plain, encoding="gaps8", precision="fp32", scope=["w"])
    assert run(encoded.model) == run(plain)
    assert {name.name for name in encoded.model.graph.initializer} == {"w/steps_", "w/values_", "w/values"}


def test_a_model_with_encoded_weights_can_be_encoded_further() -> None:
    plain = model(
        [helper.make_node("Sum", ["v", "w"], ["y"])],
        {"v": random((30, 30), 0.1), "w": random((30, 30), 0.1, seed=1)},
        {"x": [1]},
    )
    first = encode(plain, encoding="gaps8", precision="fp32", scope=["v"]).model
    both = encode(first, encoding="gaps8", precision="fp32", scope=["w"]).model
    assert len(both.functions) == 1
    assert [entry.domain for entry in both.opset_import] == ["", decoder_functions.DOMAIN]
    assert run(both) == run(plain)
    assert set(inflate_with_names(both).tensors) == {"v", "w"}


# Versions


def test_elements_of_four_bits_need_opset_21_and_ir_10() -> None:
    for opset, ir, expected in ((20, 10, "Gaps4Packed"), (21, 9, "Gaps4Packed"), (21, 10, "Gaps4")):
        _, encoded = only(random((30, 30), 0.1), "gaps4", opset=opset, ir=ir)
        assert [function.name for function in encoded.model.functions] == [expected]


def test_functions_raise_the_ir_version_to_8() -> None:
    _, encoded = only(random((30, 30), 0.1), "gaps8", opset=13, ir=7)
    assert encoded.model.ir_version == 8


def test_operators_that_are_too_old_are_an_error() -> None:
    with pytest.raises(ModelError, match=r"opset: .*; got 12; expected 13 or later"):
        only(random((30, 30), 0.1), "auto", opset=12)
    only(random((30, 30), 0.1), "coo", opset=12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoding": "gaps"}, "unknown encoding 'gaps'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"scope": ["v"]}, "v: there is no initializer of that name"),
    ],
)
def test_unknown_encodings_precisions_and_names_are_errors(arguments: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"encoding": "auto", "precision": "fp32", "scope": ["w"], **arguments}
    with pytest.raises((UnknownNameError, ModelError), match=message):
        encode(product(random((3, 3), 0.5)), **asked)


# Other tools


def test_coo_passes_the_checker_and_comes_with_a_caveat() -> None:
    _, encoded = only(random((30, 30), 0.1), "coo")
    onnx.checker.check_model(encoded.model)
    assert encoded.model.graph.sparse_initializer[0].indices.data_type == TensorProto.INT64
    assert len(encoded.remarks) == 1
    assert encoded.remarks[0].startswith("coo is the standard's own sparse initializer")


@pytest.mark.parametrize("opset", [20, 21])
@pytest.mark.parametrize("encoding", DECODED)
def test_simplifiers_keep_the_outputs_of_encoded_models(encoding: str, opset: int) -> None:
    encoded = encode(conv(random((16, 8, 3, 3), 0.1), opset=opset), encoding=encoding, precision="fp16", scope=["w"])
    expected = run(encoded.model)
    simplified, same = onnxsim.simplify(encoded.model)
    slim = onnxslim.slim(encoded.model)  # which changes what it is given
    assert same
    assert run(slim) == run(simplified) == expected
    assert run(inflate(slim)) == run(inflate(simplified)) == expected


def test_a_decoder_is_a_node_of_its_own_domain_before_all_others() -> None:
    _, encoded = only(random((30, 30), 0.1), "bitmask", "fp16")
    assert [node.domain for node in encoded.model.graph.node] == [decoder_functions.DOMAIN, "", ""]
    graph = encoded.model.graph
    ((_, scope),) = scopes(graph)
    (weight,) = WeightReader(encoded.model).decoders(graph, scope)
    assert (weight.name, weight.encoding, weight.type, weight.shape) == ("w", "bitmask", "fp16", (30, 30))
    assert (weight.active, weight.bytes) == (encoded.tensors[0].active, encoded.tensors[0].bytes)


@pytest.mark.parametrize("name", decoder_functions.FUNCTIONS)
def test_every_decoder_describes_itself_and_is_recognised(name: str) -> None:
    function = decoder_functions.function(name, 20)
    assert "values: " in function.doc_string
    assert decoder_functions.is_ours(function)
