"""Weights of ONNX files of any program: counted as the file was made, or a note says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters import onnx_files
from exporters.onnx_inspection import OnnxInspection, inspect
from granet.errors import GranetError
from granet.kernels.program import DOMAIN
from granet_cli.app import run as command

Array = NDArray[Any]
node = helper.make_node
Case = Callable[[], tuple[onnx.ModelProto, int, int]]


def sparse(*shape: int, seed: int = 0, keep: float = 0.3) -> Array:
    """Numbers of at least 0.5 either way, and zeros."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.5, 1.0, shape) * generator.choice([-1, 1], shape)
    return np.where(generator.random(shape) < keep, values, 0).astype(np.float32)


def tensors(**arrays: Array) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def network(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 21,
    ir: int = 10,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1) for domain in domains]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def function(name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto], **more: Any) -> onnx.FunctionProto:
    own = [helper.make_opsetid("", 21), helper.make_opsetid("mod", 1)]
    return helper.make_function("mod", name, list(inputs), ["y"], list(nodes), own, **more)


def counts(report: OnnxInspection) -> tuple[int, int]:
    return report.parameters, report.active


W, V = sparse(12, 8), sparse(8, 8, seed=1)
COUNT = (W.size, int(np.count_nonzero(W)))


# Where a weight may come from

MASK = sparse(12, 8, seed=3, keep=0.5) != 0
BOTH = int(np.count_nonzero(W * MASK))
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(W[W != 0], "w"), numpy_helper.from_array(np.flatnonzero(W).astype(np.int64), "i"), [12, 8]
)
BEHIND: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], int]] = {
    "constant": ([node("Constant", [], ["c"], value=tensors(w=W)[0])], [], COUNT[1]),
    "sparse_constant": ([node("Constant", [], ["c"], sparse_value=SPARSE)], [], COUNT[1]),
    "list_of_floats": (
        [node("Constant", [], ["f"], value_floats=W.reshape(-1).tolist()), node("Reshape", ["f", "s"], ["c"])],
        tensors(s=np.array([12, -1])),
        COUNT[1],
    ),
    "mask": (
        [node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Mul", ["w", "f"], ["c"])],
        tensors(w=W, m=MASK),
        BOTH,
    ),
    "where": ([node("Where", ["m", "w", "zero"], ["c"])], tensors(w=W, m=MASK, zero=np.zeros(1, np.float32)), BOTH),
    "scale": ([node("Div", ["w", "s"], ["c"])], tensors(w=W, s=np.full(8, 2, np.float32)), COUNT[1]),
    "threshold": (
        [node("Abs", ["w"], ["a"]), node("Greater", ["a", "t"], ["m"]), node("Where", ["m", "w", "z"], ["c"])],
        tensors(w=W, t=np.array(0.75, np.float32), z=np.array(0, np.float32)),
        int(np.count_nonzero(np.abs(W) > np.float32(0.75))),
    ),
    "concat": ([node("Concat", ["a", "b"], ["c"], axis=0)], tensors(a=W[:5], b=W[5:]), COUNT[1]),
    "transposed_and_sliced": (
        [node("Transpose", ["w"], ["t"]), node("Slice", ["t", "start", "end"], ["c"])],
        tensors(w=np.concatenate([W.T, W.T], 1).T.copy().T, start=np.array([0]), end=np.array([12])),
        COUNT[1],
    ),
    "split": (
        [
            node("Split", ["w", "n"], ["a", "b"], axis=1),
            node("Gemm", ["x", "a"], ["h"]),
            node("Identity", ["b"], ["c"]),
        ],
        tensors(w=W, n=np.array([3, 5])),
        COUNT[1],
    ),
    "used_twice": (
        [node("Neg", ["w"], ["n"]), node("Gemm", ["x", "n"], ["h"]), node("Identity", ["w"], ["c"])],
        tensors(w=W),
        COUNT[1],
    ),
    "squeezed": (
        [node("Unsqueeze", ["w", "a"], ["u"]), node("Squeeze", ["u", "a"], ["c"])],
        tensors(w=W, a=np.array([0])),
        COUNT[1],
    ),
    "half": (
        [node("Cast", ["w"], ["i"], to=TensorProto.FLOAT), node("Identity", ["i"], ["c"])],
        tensors(w=W.astype(np.float16)),
        COUNT[1],
    ),
    "fake_quantisation": (
        [node("QuantizeLinear", ["w", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["c"])],
        tensors(w=W, s=np.float32(0.02), z=np.int8(3)),
        COUNT[1],
    ),
    "zero_points_by_channel": (
        [node("DequantizeLinear", ["w", "s", "z"], ["c"], axis=0)],
        tensors(
            w=(np.rint(W * 50) + np.arange(12)[:, None] + 100).astype(np.uint8),
            s=np.full(12, 0.02, np.float32),
            z=np.arange(100, 112, dtype=np.uint8),
        ),
        COUNT[1],
    ),
    "zero_points_by_block": (
        [node("DequantizeLinear", ["w", "s", "z"], ["c"], axis=1, block_size=4)],
        tensors(
            w=(np.rint(W * 50) + np.repeat([[100, 101]], 4, 1)).astype(np.uint8),
            s=np.full((12, 2), 0.02, np.float32),
            z=np.tile(np.array([[100, 101]], np.uint8), (12, 1)),
        ),
        COUNT[1],
    ),
    "filled": ([node("ConstantOfShape", ["s"], ["c"], value=tensors(v=np.ones(1, np.float32))[0])],
               tensors(s=np.array([12, 8])), 96),
}  # fmt: skip


@pytest.mark.parametrize("kind", BEHIND)
def test_weights_are_counted_behind_constant_operators(kind: str) -> None:
    before, initializers, active = BEHIND[kind]
    report = inspect(network([*before, node("Gemm", ["x", "c"], ["y"])], initializers))
    assert (*counts(report), report.notes) == (96, active, ())


@pytest.mark.parametrize(
    "kind", ["INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1", "FLOAT6E2M3", "FLOAT8E4M3FN", "FLOAT8E5M2", "BFLOAT16"]
)
@pytest.mark.parametrize("raw", [False, True])
def test_small_types_are_counted(kind: str, raw: bool) -> None:
    values = (np.abs(W) > 0).astype(np.float32)[:, :5]  # an odd number of elements
    values = values[:11]
    tensor = helper.make_tensor("w", getattr(TensorProto, kind), values.shape, values.reshape(-1).tolist())
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    nodes = [node("DequantizeLinear", ["w", "s"], ["c"]), node("MatMul", ["x", "c"], ["y"])]
    report = inspect(network(nodes, [tensor, *tensors(s=np.float32(0.5))], opset=25, ir=13))
    assert (*counts(report), report.notes) == (55, np.count_nonzero(values), ())


def test_types_nobody_can_read_are_not_called_damaged() -> None:
    tensor = onnx.TensorProto(name="w", data_type=99, dims=[4, 4], raw_data=bytes(12))
    report = inspect(network([node("MatMul", ["x", "w"], ["y"])], [tensor]))
    assert report.density is None
    assert "w, which MatMul multiplies by, is not counted: elements of type 99" in report.notes


# Functions and inner graphs

PRODUCT = [node("MatMul", ["x", "w"], ["y"])]
INSIDE = [node("Constant", [], ["w"], value=tensors(w=W)[0]), *PRODUCT]


def _reference(name: str, kind: int) -> onnx.NodeProto:
    made = node("Constant", [], ["w"])
    made.attribute.add(name="value", ref_attr_name=name, type=kind)
    return made


FUNCTIONS: dict[str, tuple[list[onnx.NodeProto], list[onnx.FunctionProto], int]] = {
    "passed": ([node("F", ["x", "w"], ["y"], domain="mod")], [function("F", ["x", "w"], PRODUCT)], 1),
    "inside": ([node("F", ["x"], ["y"], domain="mod")], [function("F", ["x"], INSIDE)], 1),
    "two_calls_of_one_weight": (
        [node("F", ["x", "w"], ["a"], domain="mod"), node("F", ["a", "w"], ["y"], domain="mod")],
        [function("F", ["x", "w"], PRODUCT)],
        1,
    ),
    "nested": (
        [node("G", ["x", "w"], ["y"], domain="mod")],
        [function("F", ["x", "w"], PRODUCT), function("G", ["x", "w"], [node("F", ["x", "w"], ["y"], domain="mod")])],
        1,
    ),
    "overloaded": (
        [node("F", ["x", "w"], ["a"], domain="mod", overload="b"), node("F", ["a", "w"], ["y"], domain="mod")],
        [function("F", ["x", "w"], [node("Add", ["x", "x"], ["y"])]), function("F", ["x", "w"], PRODUCT, overload="b")],
        1,
    ),
    "weight_that_a_function_returns": (
        [node("F", ["w"], ["t"], domain="mod"), node("MatMul", ["x", "t"], ["y"])],
        [function("F", ["x"], [node("Transpose", ["x"], ["y"])])],
        1,
    ),
    "attribute": (
        [node("F", ["x"], ["y"], domain="mod", weight=tensors(w=W)[0])],
        [function("F", ["x"], [_reference("weight", onnx.AttributeProto.TENSOR), *PRODUCT], attributes=["weight"])],
        1,
    ),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_weights_of_functions_are_counted_once(kind: str) -> None:
    nodes, functions, times = FUNCTIONS[kind]
    given = tensors(w=W) if any("w" in call.input for call in nodes) else []
    report = inspect(network(nodes, given, functions=functions, domains=["mod"]))
    assert (*counts(report), report.notes) == (COUNT[0] * times, COUNT[1] * times, ())


def test_functions_that_multiply_without_end_are_not_followed_and_noted() -> None:
    twice = [
        function(f"F{i}", ["x", "w"], [node(f"F{i + 1}", ["x", "w"], [f"a{j}"], domain="mod") for j in range(2)]
                 + [node("Add", ["a0", "a1"], ["y"])])
        for i in range(30)
    ]  # fmt: skip
    loop = function("F30", ["x", "w"], [node("F0", ["x", "w"], ["y"], domain="mod")])
    report = inspect(
        network([node("F0", ["x", "w"], ["y"], domain="mod")], tensors(w=W), functions=[*twice, loop], domains=["mod"])
    )
    assert report.density is None
    assert any(note.startswith("weights inside some functions are not counted") for note in report.notes)


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_weights_of_inner_graphs_are_counted(operator: str) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("in", "out", "w2")]
    inner = [node("MatMul", ["in" if operator != "If" else "x", "w"], ["h"]), node("MatMul", ["h", "v"], ["out"])]
    if operator == "If":
        body = helper.make_graph(inner, "b", [], value[1:2], tensors(v=V))
        other = helper.make_graph([node("Identity", ["x"], ["out"])], "b", [], value[1:2])
        nodes = [node("If", ["yes"], ["y"], then_branch=body, else_branch=other)]
    elif operator == "Loop":
        count, go = (
            helper.make_tensor_value_info(n, t, []) for n, t in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))
        )
        body = helper.make_graph(inner, "b", [count, go, value[0]], [go, value[1]], tensors(v=V))
        nodes = [node("Loop", ["n", "yes", "x"], ["y"], body=body)]
    else:
        body = helper.make_graph(inner, "b", value[:1], value[1:2], tensors(v=V))
        nodes = [node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)]
    report = inspect(network(nodes, tensors(w=W, yes=np.array(True), n=np.array(2))))
    assert (*counts(report), report.notes) == (96 + 64, COUNT[1] + np.count_nonzero(V), ())


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_that_are_inputs_too_are_counted(ir: int) -> None:
    graph = network([node("MatMul", ["x", "w"], ["y"])], tensors(w=W), ir=ir, opset=7)
    graph.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [12, 8]))
    assert (*counts(inspect(graph)), inspect(graph).notes) == (*COUNT, ())


# Operators

INT8 = (np.rint(W * 50) + 3).astype(np.int8)
COLUMNS = (np.rint(W * 50) + np.arange(8)).astype(np.int8)
AROUND_COLUMNS = tensors(w=COLUMNS, s=np.full(8, 0.02, np.float32), z=np.arange(8, dtype=np.int8))
AROUND_3 = tensors(w=INT8, s=np.float32(0.02), z=np.int8(3))


def pack4(values: Array) -> Array:
    return (values[..., ::2] | values[..., 1::2] << 4).astype(np.uint8)


# [N=12, K=8 padded to one block of 16]
NIBBLES = np.pad(np.rint(W * 7).astype(int), ((0, 0), (0, 8))) + 8
NF4 = np.where(W == 0, 7, 3).reshape(-1)
OPERATORS: dict[str, tuple[onnx.NodeProto, list[onnx.TensorProto]]] = {
    "left": (node("MatMul", ["w", "x"], ["y"]), tensors(w=W)),
    "einsum": (node("Einsum", ["x", "w"], ["y"], equation="nk,km->nm"), tensors(w=W)),
    "gemm_left": (node("Gemm", ["w", "x"], ["y"], transA=1), tensors(w=W)),
    "lstm": (node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2), tensors(w=W[None, :, :4], r=W[None, :, 4:])),
    "integer": (node("MatMulInteger", ["x", "w", "", "z"], ["y"]), AROUND_COLUMNS),
    "linear": (node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"]), AROUND_3),
    "FusedGemm": (node("FusedGemm", ["x", "w"], ["y"], domain="com.microsoft"), tensors(w=W)),
    "FusedMatMul": (node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft"), tensors(w=W)),
    "QGemm": (node("QGemm", ["x", "s", "z", "w", "s", "z"], ["y"], domain="com.microsoft"), AROUND_3),
    "DynamicQuantizeMatMul": (
        node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft"),
        AROUND_COLUMNS,
    ),
    "MatMulIntegerToFloat": (
        node("MatMulIntegerToFloat", ["x", "w", "s", "s", "", "z"], ["y"], domain="com.microsoft"),
        AROUND_COLUMNS,
    ),
    "Attention": (node("Attention", ["x", "w", "b"], ["y"], num_heads=2, domain="com.microsoft"), tensors(w=W)),
    "QAttention": (
        node("QAttention", ["x", "w", "b", "s", "s", "", "z", "z"], ["y"], num_heads=2, domain="com.microsoft"),
        AROUND_3,
    ),
    "QOrderedMatMul": (
        node("QOrderedMatMul", ["x", "s", "w", "s", "s"], ["y"], domain="com.microsoft"),
        tensors(w=INT8 - np.int8(3), s=np.float32(1)),
    ),
    "MoE": (
        node("MoE", ["x", "x", "w", "", "r"], ["y"], domain="com.microsoft"),
        tensors(w=W.reshape(2, 6, 8)[:1], r=W.reshape(2, 6, 8)[1:]),
    ),
    "nhwc": (node("Conv", ["x", "w"], ["y"], domain="com.ms.internal.nhwc"), tensors(w=W.reshape(12, 2, 2, 2))),
    "MatMulNBits": (
        node("MatMulNBits", ["x", "w", "s"], ["y"], N=12, K=8, bits=4, block_size=16, domain="com.microsoft"),
        tensors(w=pack4(NIBBLES)[:, None], s=np.ones((12, 1), np.float32)),
    ),
    "MatMulNBits_with_zero_points": (
        node("MatMulNBits", ["x", "w", "s", "z"], ["y"], N=12, K=8, bits=4, block_size=16, domain="com.microsoft"),
        tensors(
            w=pack4((NIBBLES + np.arange(12)[:, None]) % 16)[:, None],
            s=np.ones((12, 1), np.float32),
            z=((np.arange(12) + 8) % 16).astype(np.uint8)[:, None],
        ),
    ),
    "MatMulNBits_of_8_bits": (
        node("MatMulNBits", ["x", "w", "s"], ["y"], N=12, K=8, bits=8, block_size=16, domain="com.microsoft"),
        tensors(w=(NIBBLES + 120).astype(np.uint8)[:, None], s=np.ones((12, 1), np.float32)),
    ),
    "MatMulBnb4": (
        node("MatMulBnb4", ["x", "w", "s"], ["y"], N=12, K=8, block_size=16, quant_type=1, domain="com.microsoft"),
        tensors(w=(NF4[::2] << 4 | NF4[1::2]).astype(np.uint8), s=np.ones(6, np.float32)),
    ),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_weights_of_operators_are_counted(kind: str) -> None:
    layer, initializers = OPERATORS[kind]
    report = inspect(network([layer], initializers, domains=["com.microsoft"]))
    assert (*counts(report), report.notes) == (*COUNT, ())


def test_padding_of_onnx_runtime_is_not_counted(tmp_path: Path) -> None:
    from exporters import runtime

    kernels = {"a": sparse(20, 3, 3, 3), "b": sparse(12, 20, 3, 3, seed=1)}
    kernels["b"][-2:] = 0  # channels without a weight that are none of the padding
    nodes = [node("Conv", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "b"], ["y"])]
    graph = network(nodes, tensors(**kernels), opset=17, ir=8)
    graph.graph.input[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 3, 8, 8]))
    onnx_files.write(tmp_path / "net.onnx", graph)
    runtime.open_session(tmp_path / "net.onnx", level="all", optimised=tmp_path / "optimised.onnx")
    report = inspect(onnx_files.read(tmp_path / "optimised.onnx"))
    assert counts(report) == (540 + 2160, sum(np.count_nonzero(kernel) for kernel in kernels.values()))


def test_tied_weights_may_share_external_data(tmp_path: Path) -> None:
    graph = network([node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])], tensors(w=W, v=W))
    onnx.save(graph, tmp_path / "net.onnx", save_as_external_data=True, location="data", size_threshold=0)
    graph = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for entry in graph.graph.initializer[1].external_data:
        entry.value = {"offset": "0"}.get(entry.key, entry.value)
    (tmp_path / "net.onnx").write_bytes(graph.SerializeToString())
    data = (tmp_path / "data").read_bytes()[: W.nbytes]
    (tmp_path / "data").write_bytes(data)
    assert counts(inspect(onnx_files.read(tmp_path / "net.onnx"))) == (2 * COUNT[0], 2 * COUNT[1])


@pytest.mark.parametrize("arguments", [["verify"], ["diff", "net.onnx"]])
def test_commands_for_checkpoints_say_that_it_is_an_onnx_file(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx_files.write("net.onnx", network([node("MatMul", ["x", "w"], ["y"])], tensors(w=W)))
    assert command([*arguments, "net.onnx"]) != 0
    captured = capsys.readouterr()
    assert "got an ONNX file" in " ".join((captured.out + captured.err).split())


# What is not counted is said

UNCLAIMED: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]] = {
    "embedding": ([node("Gather", ["w", "x"], ["y"])], tensors(w=W), "w (12x8, read by Gather)"),
    "unknown": ([node("Layer", ["x", "w"], ["y"], domain="theirs")], tensors(w=W), "w (12x8, read by theirs.Layer)"),
    "before_unknown": (
        [node("Warp", ["w"], ["v"], domain="theirs"), node("Gemm", ["x", "v"], ["y"])],
        tensors(w=W),
        "1 layers multiply by what the graph computes or is given",
    ),
    "embeddings_of_onnx_runtime": (
        [node("EmbedLayerNormalization", ["x", "", "w"], ["y"], domain="com.microsoft")],
        tensors(w=W),
        "w (12x8, read by com.microsoft.EmbedLayerNormalization)",
    ),
    "scaled_by_an_input": (
        [node("Mul", ["w", "x"], ["v"]), node("MatMul", ["x", "v"], ["y"])], tensors(w=W), "w (12x8, read by Mul)"
    ),
    "tree": (
        [node("LinearRegressor", ["x"], ["y"], coefficients=[1.0, 2.0], domain="ai.onnx.ml")],
        [],
        "LinearRegressor keeps 2 numbers in its attributes",
    ),
    "bomb": (
        [node("ConstantOfShape", ["s"], ["v"]), node("MatMul", ["x", "v"], ["y"])],
        tensors(s=np.array([2**40, 2**20])),
        "computing it takes more than",
    ),
    "expanded_bomb": (
        [node("Expand", ["w", "s"], ["v"]), node("MatMul", ["x", "v"], ["y"])],
        tensors(w=W, s=np.array([2**40, 12, 8])),
        "computing it takes more than",
    ),
    "outer_sum": (
        [node("Add", ["a", "b"], ["v"]), node("MatMul", ["x", "v"], ["y"])],
        tensors(a=np.zeros((2**13, 1), np.float32), b=np.zeros((1, 2**13), np.float32)),
        "computing it takes more than",
    ),
    "nothing": ([node("Relu", ["x"], ["y"])], [], "no weight of a layer could be counted"),
    "impossible": (
        [node("Reshape", ["w", "s"], ["r"]), node("Mul", ["r", "r"], ["v"]), node("MatMul", ["x", "v"], ["y"])],
        tensors(w=W, s=np.array([7, 7])),
        "failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCLAIMED)
def test_what_is_not_counted_is_noted(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, initializers, note = UNCLAIMED[kind]
    path = tmp_path / "net.onnx"
    onnx_files.write(path, network(nodes, initializers, domains=["com.microsoft"]))
    assert command(["inspect", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert note in shown
    assert "0 of 0" not in shown
    assert inspect(onnx_files.read(path)).density is None


@pytest.mark.parametrize("doublings", [10, 60])
def test_sums_of_a_constant_with_itself_take_bounded_work(doublings: int) -> None:
    nodes = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(doublings)]
    report = inspect(network([*nodes, node("Gemm", ["x", f"c{doublings}"], ["y"])], tensors(c0=W)))
    assert counts(report) == ((COUNT[0] << 10, COUNT[1] << 10) if doublings == 10 else (0, 0))


def test_damaged_constants_are_errors() -> None:
    tensor = tensors(w=W)[0]
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(GranetError, match=r"^w: a tensor that is damaged"):
        inspect(network([node("Mul", ["w", "w"], ["v"]), node("MatMul", ["x", "v"], ["y"])], [tensor]))


def test_names_that_are_no_text_are_an_error() -> None:
    content = network([node("Layer", ["x"], ["y"], domain=DOMAIN)]).SerializeToString().replace(b"Layer", b"Laye\xff")
    with pytest.raises(GranetError, match="names that are not UTF-8"):
        inspect(onnx.ModelProto.FromString(content))
