"""Plain weights again: from our decoders, from sparse tensors of anybody, and from files that nobody should trust."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters import onnx_files
from exporters.encoding import MARK, decoder_functions, encode, encoder, inflate, inflate_with_names
from exporters.encoding.decode import ALLOWANCE, PER_BYTE
from granet.errors import GranetError, ModelError
from granet_cli.app import run as command
from tests.onnx_graphs import conv, initializer, model, product, run

Array = NDArray[Any]


def random(shape: tuple[int, ...], density: float = 0.1) -> Array:
    generator = np.random.default_rng(3)
    values = generator.standard_normal(shape).astype(np.float32)
    return np.where(generator.random(shape) < density, values, np.float32(0))


def encoded(encoding: str = "gaps8", precision: str = "fp32", **options: Any) -> onnx.ModelProto:
    return encode(product(random((40, 40)), **options), encoding=encoding, precision=precision, scope=["w"]).model


def laid_out(layout: str) -> onnx.ModelProto:
    """One that need not be the best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "_allowed", lambda *_, **__: [layout])
        return encoded("auto", opset=21 if layout == "Gaps4" else 20)


def tensor(graph: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


def replace(graph: onnx.ModelProto, name: str, values: Array) -> None:
    tensor(graph, name).CopyFrom(numpy_helper.from_array(values, name))


def attribute(graph: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in graph.graph.node[0].attribute if attribute.name == name)


def sparse(values: list[float], indices: Any, shape: list[int], name: str = "w") -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), name),
        numpy_helper.from_array(np.array(indices, np.int64)),
        shape,
    )


# What comes of it


@pytest.mark.parametrize("opset", [20, 21])
@pytest.mark.parametrize("encoding", ["auto", "gaps8", "gaps4", "bitmask", "coo"])
def test_inflating_restores_the_model_before_encoding(encoding: str, opset: int) -> None:
    plain = conv(random((64, 32, 3, 3)), opset=opset)
    plain.doc_string, plain.producer_name = "a network", "somebody"
    plain.metadata_props.add(key="key", value="value")
    inflated = inflate_with_names(encode(plain, encoding=encoding, precision="fp32", scope=["w"]).model)
    assert inflated.tensors == ("w",)
    marked = onnx.ModelProto()
    marked.CopyFrom(plain)
    marked.metadata_props.add(key=MARK, value="true")
    assert inflated.model == marked


def test_a_model_without_encoded_weights_is_copied() -> None:
    plain = product(random((4, 4)))
    assert inflate(plain) == plain
    assert inflate(plain) is not plain
    assert inflate_with_names(plain).tensors == ()


def test_inflating_twice_changes_nothing_more() -> None:
    once = inflate(encoded())
    assert inflate(once) == once


def test_sparse_indices_may_be_flat_or_by_axis_and_constants_may_be_sparse() -> None:
    expected = np.zeros((2, 3), np.float32)
    expected[0, 1], expected[1, 2] = 5, 7
    constant = helper.make_node("Constant", [], ["c"], sparse_value=sparse([5, 7], [1, 5], [2, 3], "c"))
    sum_of = helper.make_node("Sum", ["flat", "axes", "c"], ["y"])
    graph = model([constant, sum_of], {}, {"x": [1]})
    graph.graph.sparse_initializer.append(sparse([5, 7], [1, 5], [2, 3], "flat"))
    graph.graph.sparse_initializer.append(sparse([5, 7], [[0, 1], [1, 2]], [2, 3], "axes"))
    plain = inflate_with_names(graph)
    assert plain.tensors == ("flat", "axes", "c")
    assert initializer(plain.model, "flat").tolist() == initializer(plain.model, "axes").tolist() == expected.tolist()
    assert numpy_helper.to_array(plain.model.graph.node[0].attribute[0].t).tolist() == expected.tolist()
    assert np.frombuffer(run(plain.model)[0][0], np.float32).tolist() == (3 * expected).ravel().tolist()


def test_branches_and_functions_are_inflated_too() -> None:
    made = encoded()
    branch = helper.make_graph(
        [*made.graph.node, helper.make_node("Constant", [], ["c"], sparse_value=sparse([5], [0], [1], "c"))],
        "branch",
        [],
        made.graph.output,
        made.graph.initializer,
    )
    inside = helper.make_function(
        "others", "F", [], ["z"], [helper.make_node("Constant", [], ["z"], sparse_value=sparse([3], [1], [2], "z"))],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    outer = model([helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], {}, {"x": [2, 40]})
    outer.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    outer.functions.extend([*made.functions, inside])
    outer.opset_import.append(helper.make_opsetid(decoder_functions.DOMAIN, 1))
    plain = inflate_with_names(outer)
    assert sorted(plain.tensors) == ["c", "c", "w", "w", "z"]
    assert [function.name for function in plain.model.functions] == ["F"]
    then = plain.model.graph.node[0].attribute[0].g
    assert [node.op_type for node in then.node] == ["Reshape", "MatMul", "Constant"]
    assert {item.name for item in then.initializer} == {"w", "rows"}


def test_inputs_of_decoders_with_other_readers_stay() -> None:
    shared = encoded()
    shared.graph.node.append(helper.make_node("Identity", ["w/values"], ["also"]))
    assert {item.name for item in inflate(shared).graph.initializer} == {"w", "rows", "w/values"}


def test_tools_may_turn_initializers_into_constants() -> None:
    moved = encoded("gaps4", "int8")
    constants = [
        helper.make_node("Constant", [], [item.name], value=item)
        for item in moved.graph.initializer
        if item.name.startswith("w/")
    ]
    rows = tensor(moved, "rows")
    nodes = [*constants, *moved.graph.node]
    del moved.graph.node[:], moved.graph.initializer[:]
    moved.graph.node.extend(nodes)
    moved.graph.initializer.append(rows)
    assert initializer(inflate(moved), "w").tobytes() == initializer(inflate(encoded("gaps4", "int8")), "w").tobytes()
    assert [node.op_type for node in inflate(moved).graph.node] == ["Reshape", "MatMul"]


def test_annotations_of_other_tools_do_not_make_a_decoder_unknown() -> None:
    noted = encoded("bitmask")
    function = noted.functions[0]
    function.doc_string = ""
    function.node[0].name = "named by a tool"
    table = next(x.t for node in function.node for x in node.attribute if x.name == "value")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table), "with raw data"))
    assert inflate_with_names(noted).tensors == ("w",)


# What is refused


def past_the_end(graph: onnx.ModelProto) -> None:
    attribute(graph, "shape").ints[:] = [40, 39]
    attribute(graph, "size").ints[:] = [1560]


def far_larger(graph: onnx.ModelProto) -> None:
    attribute(graph, "shape").ints[:] = [40, 4000]
    attribute(graph, "size").ints[:] = [160_000]


def enormous(graph: onnx.ModelProto) -> None:
    attribute(graph, "shape").ints[:] = [2**40, 2**40]
    attribute(graph, "size").ints[:] = [2**62]


def negative(graph: onnx.ModelProto) -> None:
    attribute(graph, "shape").ints[:] = [-40, -40]


def of_another_size(graph: onnx.ModelProto) -> None:
    attribute(graph, "size").ints[:] = [1601]


def of_no_size(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].attribute.remove(attribute(graph, "size"))


def of_a_float(graph: onnx.ModelProto) -> None:
    attribute(graph, "size").CopyFrom(helper.make_attribute("size", [1600.0]))


def a_value_short(graph: onnx.ModelProto) -> None:
    replace(graph, "w/values", initializer(graph, "w/values")[:-1])


def a_value_too_many(graph: onnx.ModelProto) -> None:
    replace(graph, "w/values", np.append(initializer(graph, "w/values"), np.float32(1)))


def values_of_a_row(graph: onnx.ModelProto) -> None:
    replace(graph, "w/values", initializer(graph, "w/values")[None])


def values_of_another_type(graph: onnx.ModelProto) -> None:
    replace(graph, "w/values", initializer(graph, "w/values").astype(np.float64))


def values_of_more_than_there_is(graph: onnx.ModelProto) -> None:
    tensor(graph, "w/values").dims[:] = [2**50]


def values_of_a_negative_number(graph: onnx.ModelProto) -> None:
    tensor(graph, "w/values").dims[:] = [-1]


def values_of_an_unknown_type(graph: onnx.ModelProto) -> None:
    tensor(graph, "w/values").data_type = 999


def values_elsewhere(graph: onnx.ModelProto) -> None:
    tensor(graph, "w/values").data_location = TensorProto.EXTERNAL


def no_values(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.remove(tensor(graph, "w/values"))


def values_that_vary(graph: onnx.ModelProto) -> None:
    graph.graph.input.append(helper.make_tensor_value_info("w/values", TensorProto.FLOAT, [None]))


def an_input_short(graph: onnx.ModelProto) -> None:
    del graph.graph.node[0].input[1:]


def another_operator(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].op_type = "Gaps9"


def another_decoder(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].op_type = "Gaps8Half"


def no_function(graph: onnx.ModelProto) -> None:
    del graph.functions[:]


def another_function(graph: onnx.ModelProto) -> None:
    line = next(node for node in graph.functions[0].node if node.op_type == "Reshape")
    line.op_type = "Expand"


def a_function_that_fills_with_ones(graph: onnx.ModelProto) -> None:
    line = next(node for node in graph.functions[0].node if node.op_type == "ConstantOfShape")
    line.attribute[0].t.CopyFrom(helper.make_tensor("", TensorProto.FLOAT, [1], [1.0]))


def a_function_with_data_elsewhere(graph: onnx.ModelProto) -> None:
    constant = next(x.t for node in graph.functions[0].node for x in node.attribute if x.name == "value")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="/etc/hostname")


@pytest.mark.parametrize(
    "damage",
    [
        past_the_end, far_larger, enormous, negative, of_another_size, of_no_size, of_a_float, a_value_short,
        a_value_too_many, values_of_a_row, values_of_another_type, values_of_more_than_there_is,
        values_of_a_negative_number, values_of_an_unknown_type, values_elsewhere, no_values, values_that_vary,
        an_input_short, another_operator, another_decoder, no_function, another_function,
        a_function_that_fills_with_ones, a_function_with_data_elsewhere,
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["Gaps8Steps", "Gaps8", "Gaps4", "Gaps4Packed", "Bitmask"])
def test_damage_is_refused_and_the_weight_is_named(layout: str, damage: Callable[[onnx.ModelProto], None]) -> None:
    graph = laid_out(layout)
    if layout == "Bitmask" and damage is a_function_that_fills_with_ones:
        return  # it has no such line
    damage(graph)
    with pytest.raises(ModelError, match=r"^w: .*(damaged|does not know)"):
        inflate(graph)


@pytest.mark.parametrize(
    ("encoding", "name", "change", "message"),
    [
        ("gaps8", "w/steps", lambda steps: np.where(np.arange(steps.size) == 3, 0, steps), "two values for one"),
        ("gaps8", "w/steps", lambda steps: steps.astype(np.int8), "positions of type int8"),
        ("bitmask", "w/bytes", lambda data: data[:-1], "a bitmask of 199 bytes; expected 200"),
        ("bitmask", "w/values", lambda values: np.append(1, values[1:]).astype(np.float32), "begin with 1"),
        ("bitmask", "w/values", lambda values: np.append(-0.0, values[1:]).astype(np.float32), "begin with -0"),
        ("gaps4", "w/bytes", lambda data: np.append(data, np.uint8(255)), "past the end"),
        ("gaps4", "w/bytes", lambda data: data[None], "not one dimension"),
    ],
)
def test_positions_that_no_encoder_wrote_are_refused(
    encoding: str, name: str, change: Callable[[Array], Array], message: str
) -> None:
    graph = encoded(encoding)
    values = change(initializer(graph, name))
    replace(graph, name, values.astype(np.uint8) if values.dtype.kind == "i" and values.itemsize > 1 else values)
    with pytest.raises(ModelError, match=message):
        inflate(graph)


@pytest.mark.parametrize("shape", [(40,), (1, 41), (2, 40), (40, 40, 1)])
def test_scales_have_to_fit_the_weight(shape: tuple[int, ...]) -> None:
    graph = encoded("gaps8", "int8")
    replace(graph, "w/scales", np.ones(shape, np.float32))
    with pytest.raises(ModelError, match="scales of type float32 and shape"):
        inflate(graph)


def test_the_same_bytes_cannot_be_claimed_without_end() -> None:
    graph = encode(product(np.zeros((1, 2**20), np.float32)), encoding="gaps8", precision="fp32", scope=["w"]).model
    node = graph.graph.node[0]
    for index in range(200):
        again = graph.graph.node.add()
        again.CopyFrom(node)
        again.output[0] = f"w{index}"
    with pytest.raises(ModelError, match="for which the model has too few bytes"):
        inflate(graph)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (sparse([1], [0], [2**40, 2**40]), "too few bytes"),
        (sparse([1], [0], [2**25]), "too few bytes"),
        (sparse([1], [0], [-1, -1]), "a shape of"),
        (sparse([1, 2], [3, 3], [9]), "do not increase"),
        (sparse([1, 2], [4, 3], [9]), "do not increase"),
        (sparse([1, 2], [3, 9], [9]), "outside"),
        (sparse([1, 2], [-1, 3], [9]), "outside"),
        (sparse([1, 2], [3], [9]), "indices of shape"),
        (sparse([1], [[0, 0, 0]], [3, 3]), "indices of shape"),
        (sparse([1], [[0, 3]], [3, 3]), "outside"),
    ],
)
def test_malformed_sparse_tensors_are_refused(tensor: onnx.SparseTensorProto, message: str) -> None:
    graph = model([helper.make_node("Identity", ["w"], ["y"])], {}, {"x": [1]})
    graph.graph.sparse_initializer.append(tensor)
    with pytest.raises(ModelError, match=f"^w: a sparse tensor that is damaged; got .*{message}"):
        inflate(graph)


def test_a_decoder_inside_a_function_is_refused() -> None:
    graph = encoded()
    body = helper.make_function("others", "F", ["a", "b"], ["w"], graph.graph.node[:1], [helper.make_opsetid("", 20)])
    graph.functions.append(body)
    with pytest.raises(ModelError, match="a decoder inside a function"):
        inflate(graph)


BROKEN = [
    graph.SerializeToString()
    for graph in (
        encoded("gaps8"), encoded("gaps4", "int8"), encoded("coo", "fp16"),
        laid_out("Gaps8"), laid_out("Gaps4"), laid_out("Bitmask"),
    )
]  # fmt: skip


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_bytes_are_broken_the_answer_is_a_model_or_an_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(BROKEN)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph = onnx.ModelProto.FromString(bytes(content))
    except Exception:
        return  # the reader of files says what it is
    try:
        inflated = inflate(graph)
    except GranetError:
        return
    assert inflated.ByteSize() <= 8 * (PER_BYTE * len(content) + ALLOWANCE) + len(content)


# The command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sparse.onnx").write_bytes(encoded().SerializeToString())
    return tmp_path


def test_the_command_writes_plain_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["inflate", "sparse.onnx", "-o", "dense.onnx"]) == 0
    assert "1 encoded tensor became plain" in capsys.readouterr().out
    assert initializer(onnx.load("dense.onnx"), "w").tobytes() == random((40, 40)).tobytes()
    assert command(["inflate", "dense.onnx", "-o", "again.onnx"]) == 0
    assert "nothing to inflate" in capsys.readouterr().out
    assert sorted(path.name for path in place.iterdir()) == ["again.onnx", "dense.onnx", "sparse.onnx"]


def test_the_command_prints_json_and_nothing_else(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert command(["inflate", "sparse.onnx", "-o", "dense.onnx", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "out": "dense.onnx",
        "bytes": Path("dense.onnx").stat().st_size,
        "source_bytes": Path("sparse.onnx").stat().st_size,
        "tensors": ["w"],
    }
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sparse.onnx", "-o", "sparse.onnx", "--overwrite"], 2, "would be overwritten"),
        (["sparse.onnx", "-o", "there.onnx"], 2, "the file exists. Replace it with --overwrite"),
        (["sparse.onnx", "-o", "no/folder/x.onnx"], 1, "could not be written"),
        (["none.onnx", "-o", "x.onnx"], 1, "cannot be read"),
        (["empty.onnx", "-o", "x.onnx"], 1, "not an ONNX model"),
        (["text.onnx", "-o", "x.onnx"], 1, "not an ONNX model"),
        (["half.onnx", "-o", "x.onnx"], 1, "not an ONNX model"),
        ([".", "-o", "x.onnx"], 1, "a folder"),
    ],
)
def test_errors_are_explained_and_leave_no_file(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    content = Path("sparse.onnx").read_bytes()
    Path("there.onnx").write_bytes(b"there")
    Path("empty.onnx").touch()
    Path("text.onnx").write_text("a text that is no model\n" * 100)
    Path("half.onnx").write_bytes(content[: len(content) // 2])
    before = {path: path.read_bytes() for path in place.iterdir()}
    assert command(["inflate", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert {path: path.read_bytes() for path in place.iterdir()} == before


# Data in other files


def external(folder: Path, location: str, **entries: int) -> Path:
    """A model whose weight lies somewhere else, with the 6400 bytes of it in ``data.bin`` beside it."""
    folder.mkdir(exist_ok=True)
    plain = product(random((40, 40)))
    weight = tensor(plain, "w")
    (folder / "data.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    path = folder / "external.onnx"
    path.write_bytes(plain.SerializeToString())
    return path


def test_external_data_in_the_folder_are_read(tmp_path: Path) -> None:
    path = external(tmp_path / "here", "data.bin", offset=0, length=6400)
    assert initializer(inflate(onnx_files.read(path)), "w").tobytes() == random((40, 40)).tobytes()


@pytest.mark.parametrize(
    "location", ["../data.bin", "../here/../data.bin", "ABSOLUTE", "link.bin", "linked/data.bin", "", "."]
)
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    secret = tmp_path / "data.bin"
    secret.write_bytes(bytes(6400))
    path = external(tmp_path / "here", location.replace("ABSOLUTE", str(secret)))
    (path.parent / "link.bin").symlink_to(secret)
    (path.parent / "linked").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="data outside the model's folder"):
        onnx_files.read(path)


@pytest.mark.parametrize(
    "entries",
    [{"offset": 1, "length": 6400}, {"offset": 0, "length": 2**62}, {"offset": 6401}, {"length": -1}, {"offset": "x"}],
)
def test_external_data_outside_the_file_are_refused(tmp_path: Path, entries: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="data of 'w'"):
        onnx_files.read(external(tmp_path / "here", "data.bin", **entries))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = external(tmp_path / "here", "pipe")
    os.mkfifo(path.parent / "pipe")
    with pytest.raises(GranetError, match="not a regular file"):
        onnx_files.read(path)
