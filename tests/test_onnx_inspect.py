"""A look inside ONNX files: ours, and those of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.encoding import encode
from exporters.onnx_inspection import OnnxInspection, inspect
from granet.checkpoint import codec, save
from granet.errors import GranetError, ModelError
from granet_cli.app import run as command
from granet_cli.filetype import is_onnx
from tests.checkpoints import checkpoint
from tests.onnx_graphs import conv, model, product

Array = NDArray[Any]


def with_zeros(*shape: int, active: int, dtype: Any = np.float32) -> Array:
    values = np.zeros(shape, dtype)
    values.reshape(-1)[:active] = np.arange(1, active + 1)
    return values


def layers(report: OnnxInspection) -> list[tuple[str, tuple[int, ...], int, str, str]]:
    return [(layer.name, layer.shape, layer.active, layer.encoding, layer.type) for layer in report.layers]


# What counts


@pytest.mark.parametrize("encoding", ["gaps8", "gaps4", "bitmask", "coo", "dense"])
@pytest.mark.parametrize(("precision", "kind"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8")])
@pytest.mark.parametrize("opset", [20, 21])
def test_encoded_weights_are_counted_as_the_plain_ones(encoding: str, precision: str, kind: str, opset: int) -> None:
    plain = conv(with_zeros(16, 8, 3, 3, active=100), opset=opset)
    encoded = encode(plain, encoding=encoding, precision=precision, scope=["w"])
    report = inspect(encoded.model)
    assert layers(report) == [("w", (16, 8, 3, 3), encoded.tensors[0].active, encoding, kind)]
    assert (report.parameters, report.total_parameters) == (1152, 1152)
    assert report.layers[0].bytes == encoded.tensors[0].bytes == report.weight_bytes
    if precision == "fp32":
        assert report.density == inspect(plain).density == 100 / 1152
    assert report.opsets == {"ai.onnx": opset} | ({"ai.granet": 1} if encoded.model.functions else {})


def test_weights_are_distinguished_from_other_parameters() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["a"]),
        helper.make_node("Add", ["a", "position"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "matrix"], ["d"]),
        helper.make_node("Mul", ["d", "whole"], ["y"]),
    ]
    values = {
        "bias": np.ones(4, np.float32),
        "position": np.ones((1, 4, 3, 3), np.float32),
        "whole": np.ones((3, 3), np.int64),
        "matrix": with_zeros(36, 5, active=9),
        "kernel": with_zeros(4, 2, 3, 3, active=7),
    }
    report = inspect(model(nodes, values, {"x": ["n", 2, 5, 5]}))
    assert layers(report) == [
        ("kernel", (4, 2, 3, 3), 7, "dense", "fp32"),
        ("matrix", (36, 5), 9, "dense", "fp32"),
    ]
    assert (report.parameters, report.active, report.density) == (72 + 180, 16, 16 / 252)
    assert report.total_parameters == 72 + 180 + 4 + 36


def test_constants_of_all_kinds_are_read() -> None:
    indices = numpy_helper.from_array(np.array([0, 4], np.int64))
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(2, np.float32), "s"), indices, [3, 3])
    half = with_zeros(3, 3, active=3, dtype=np.float16)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(with_zeros(3, 3, active=4))),
        helper.make_node("MatMul", ["x", "c"], ["y1"]),
        helper.make_node("MatMul", ["y1", "s"], ["y2"]),
        helper.make_node("Cast", ["h"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["turned"]),
        helper.make_node("Gemm", ["y2", "turned"], ["y3"]),
        helper.make_node("Gemm", ["y3", "turned"], ["y4"]),
        helper.make_node("MatMul", ["brain", "y4"], ["y"]),
    ]
    graph = model(nodes, {"h": half}, {"x": [3, 3]})
    graph.graph.sparse_initializer.append(sparse)
    graph.graph.initializer.append(helper.make_tensor("brain", TensorProto.BFLOAT16, [1, 3], [0.0, 1.0, 2.0]))
    assert layers(inspect(graph)) == [
        ("c", (3, 3), 4, "dense", "fp32"),
        ("s", (3, 3), 2, "coo", "fp32"),
        ("h", (3, 3), 3, "dense", "fp16"),
        ("brain", (1, 3), 2, "dense", "bf16"),
    ]


def test_integers_equal_to_the_zero_point_count_as_zero() -> None:
    values = {
        "w": np.array([[3, 3], [3, 9]], np.uint8),
        "v": np.array([[0, 1], [0, 0]], np.int8),
        "u": np.array([[1, 1], [2, 5]], np.int8),
        "scale": np.ones(1, np.float32),
        "three": np.array([3], np.uint8),
        "several": np.array([1, 2], np.int8),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w", "", "three"], ["a"]),
        helper.make_node("DequantizeLinear", ["v", "scale"], ["wide"]),
        helper.make_node("Gemm", ["a", "wide"], ["b"]),
        helper.make_node("DequantizeLinear", ["u", "scale", "several"], ["other"]),
        helper.make_node("Gemm", ["b", "other"], ["y"]),
    ]
    report = inspect(model(nodes, values, {"x": [2, 2]}))
    assert [(layer.name, layer.active, layer.type) for layer in report.layers] == [
        ("w", 1, "uint8"),
        ("v", 1, "int8"),
        ("u", 3, "int8"),
    ]
    assert report.notes == ()


def test_recurrent_layers_and_branches_have_weights_too() -> None:
    values = {"w": with_zeros(1, 8, 2, active=5), "r": with_zeros(1, 8, 2, active=6)}
    branch = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "w", "r"], ["h"], hidden_size=2),
            helper.make_node("MatMul", ["h", "own"], ["z"]),
        ],
        "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(with_zeros(2, 2, active=1), "own")],
    )  # fmt: skip
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    report = inspect(model(nodes, values, {"x": [1, 1, 2], "yes": []}))
    assert [(layer.name, layer.active) for layer in report.layers] == [("w", 5), ("r", 6), ("own", 1), ("own", 1)]
    assert report.nodes == 5


def test_weights_that_the_graph_computes_are_noted() -> None:
    nodes = [
        helper.make_node("Mul", ["w", "x"], ["scaled"]),
        helper.make_node("Gemm", ["x", "scaled"], ["q"]),
        helper.make_node("MatMul", ["q", "x"], ["y"]),
    ]
    report = inspect(model(nodes, {"w": np.ones((3, 3), np.float32)}, {"x": [3]}))
    assert report.layers == ()
    assert report.density is None
    assert report.notes == (
        "1 layers multiply by what the graph computes or is given; that is not counted",
        "1 tensors of two and more dimensions are not counted as weights of layers: w (3x3, read by Mul)",
        "no weight of a layer could be counted, so nothing is known of the density",
    )


def test_inputs_outputs_and_producer_are_reported() -> None:
    graph = product(with_zeros(3, 4, active=2))
    graph.producer_name, graph.producer_version = "a program", "7"
    graph.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, ["batch", None, 3]))
    graph.graph.input.append(onnx.ValueInfoProto(name="list", type=helper.make_sequence_type_proto(onnx.TypeProto())))
    graph.graph.input.append(helper.make_tensor_value_info("any", TensorProto.FLOAT16, None))
    graph.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))  # a default, not needed
    graph.metadata_props.add(key="granet.weights", value='{"active": 2}')
    graph.metadata_props.add(key="granet.note", value="{no JSON")
    graph.metadata_props.add(key="other", value="thing")
    report = inspect(graph)
    assert [(value.name, value.type, value.shape) for value in report.inputs] == [
        ("x", "fp32", (2, 3)),
        ("flag", "bool", ("batch", None, 3)),
        ("list", None, None),
        ("any", "fp16", None),
    ]
    assert [value.shape for value in report.outputs] == [("a", "b")]
    assert report.producer == "a program 7"
    assert report.metadata == {"weights": {"active": 2}, "note": "{no JSON"}


def test_the_report_is_fit_for_json() -> None:
    report = json.loads(json.dumps(inspect(product(with_zeros(4, 4, active=4))).as_json(), allow_nan=False))
    assert report["step"] is None
    assert report["inputs"] == [{"name": "x", "type": "fp32", "shape": [2, 4]}]
    assert report["layers"][0].keys() >= {"name", "shape", "parameters", "active", "density", "encoding", "bytes"}
    assert (report["parameters"], report["active"], report["density"]) == (16, 4, 0.25)


# Files of strangers


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-4, -4], [5, 5]])
def test_damaged_tensors_are_named(dims: list[int]) -> None:
    graph = product(with_zeros(4, 4, active=4))
    graph.graph.initializer[0].dims[:] = dims
    with pytest.raises(ModelError, match=r"^w: a tensor that is damaged"):
        inspect(graph)


def test_cyclic_graphs_terminate() -> None:
    nodes = [
        helper.make_node("Identity", ["b"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Gemm", ["x", "a"], ["y"]),
    ]
    assert inspect(model(nodes, {}, {"x": [1]})).layers == ()


WHOLE = [encode(conv(with_zeros(16, 8, 3, 3, active=100)), encoding=encoding, precision="fp32", scope=["w"]).model
         for encoding in ("gaps8", "gaps4", "coo", "dense")]  # fmt: skip


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_bytes_are_broken_the_answer_is_a_report_or_an_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph = onnx.ModelProto.FromString(bytes(content))
    except Exception:
        return  # the reader of files says what it is
    try:
        report = inspect(graph)
    except GranetError:
        return
    json.dumps(report.as_json(), allow_nan=False)


# The command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Conv", ["x", "a.weight"], ["h"]), helper.make_node("Conv", ["h", "b.weight"], ["y"])]
    values = {"a.weight": with_zeros(8, 4, 3, 3, active=40), "b.weight": with_zeros(8, 8, 1, 1, active=60)}
    graph = encode(
        model(nodes, values, {"x": ["batch", 4, 5, 5]}), encoding="gaps8", precision="fp32", scope=["a.weight"]
    ).model
    graph.metadata_props.add(key="granet.checkpoint", value='{"step": 7}')
    Path("net.onnx").write_bytes(graph.SerializeToString())
    return tmp_path


def test_inspect_shows_how_weights_are_stored(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["inspect", "net.onnx"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0].startswith("net.onnx  ")
    assert any(line.split() == ["inputs", "x", "fp32", "[batch,", "4,", "5,", "5]"] for line in lines)
    assert any(line.split() == ["checkpoint", "step", "7"] for line in lines)
    row = next(line.split() for line in lines if line.startswith("a "))
    assert row[:5] == ["a", "8x4x3x3", "288", "40", "0.1389"]
    assert "gaps8 fp32" in captured.out
    assert "dense fp32" in captured.out
    assert lines[-1].split()[:4] == ["total", "352", "100", "0.2841"]


def test_inspect_prints_json_and_nothing_else(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["inspect", "net.onnx", "--json", "--sort", "density"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report["bytes"] == Path("net.onnx").stat().st_size
    assert [layer["name"] for layer in report["layers"]] == ["b.weight", "a.weight"]
    assert report["metadata"] == {"checkpoint": {"step": 7}}
    assert (report["step"], report["parameters"], report["active"]) == (None, 352, 100)


def test_layers_are_chosen_and_sorted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["inspect", "net.onnx", "--layers", "b*", "--sort", "bytes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 of 2 layers")
    assert command(["inspect", "net.onnx", "--sort", "flops"]) == 2
    assert "unknown column 'flops'" in capsys.readouterr().err
    assert command(["inspect", "net.onnx", "--layers", "c*"]) == 2
    assert command(["inspect", "net.onnx", "--model", "some:code"]) == 2
    assert "names no code" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(place: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from io import StringIO

    from granet_cli.inspect.onnx_view import show
    from granet_cli.render import Screen

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    report = inspect(onnx.load("net.onnx"))
    screen = Screen()
    screen.file = Terminal()
    show(screen, Path("net.onnx"), 1000, report, report.layers)
    rows = screen.file.getvalue().splitlines()
    first = next(index for index, line in enumerate(rows) if line.startswith("layer"))
    assert max(map(len, rows[first:])) <= max(width, 72)


def test_the_content_decides_the_type_of_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("named.safetensors").write_bytes(Path("net.onnx").read_bytes())
    save("saved.onnx", checkpoint())
    assert command(["inspect", "named.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"
    assert command(["inspect", "saved.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 12


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.onnx", b"", True),
        ("a.safetensors", b"", False),
        ("a.ONNX", b"nothing of the kind", True),
        ("a.bin", b"nothing of the kind", False),
        ("a.bin", bytes(100), False),
        ("a.bin", b"\x08\x0a" * 100, False),
        ("a.bin", b"\x3a\xff\xff\xff\xff\x7f" + bytes(20), False),
        ("a.bin", b"\x08\x0a\x3a\x04" + bytes(4), True),
        ("a.bin", b"\x08" + b"\xff" * 100, False),
        ("a.onnx", (30).to_bytes(8, "little") + b"{" + bytes(29), False),
        ("a.onnx", (31).to_bytes(8, "little") + b"{" + bytes(29), True),
    ],
)
def test_kinds_of_files(tmp_path: Path, name: str, content: bytes, kind: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert is_onnx(path) is kind


def test_checkpoints_are_never_taken_for_models(tmp_path: Path) -> None:
    path = tmp_path / "c.onnx"
    path.write_bytes(codec.encode(checkpoint()))
    assert not is_onnx(path)
    assert not is_onnx(tmp_path)
    assert is_onnx(tmp_path / "none.onnx")
    assert not is_onnx(tmp_path / "none")
