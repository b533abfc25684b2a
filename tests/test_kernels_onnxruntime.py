"""The kernels inside ONNX Runtime: an island is a function without them, and one operator with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import granet.kernels
from exporters.encoding import layouts
from exporters.encoding.decoder_functions import function
from granet.errors import UsageError
from granet.kernels.program import (
    ATTRIBUTE,
    DOMAIN,
    Activation,
    Convolution,
    Nonlinearity,
    Program,
    Shape,
    Weight,
    WeightLayout,
    encode,
    island_name,
)
from tests.random_programs import sparse_weight

OPSET = 21


def island(*, layout: str = "Gaps8", program: list[int] | None = None, damage: int | None = None) -> onnx.ModelProto:
    """A model whose only node is an island: a residual 3x3 convolution of 8 channels of 9 x 9."""
    rng = np.random.default_rng(0)
    weight = sparse_weight(rng, (8, 8, 3, 3), 0.3)
    packed = layouts.pack(layout, weight.reshape(-1))
    codes, values = numpy_helper.from_array(packed.positions, "codes"), numpy_helper.from_array(packed.values, "values")
    if damage is not None:
        codes.raw_data = codes.raw_data[:damage] + b"\xfe" + codes.raw_data[damage + 1 :]
    attributes: dict[str, Any] = {"shape": list(weight.shape), "size": [weight.size]}
    if layout == "Gaps4Packed":
        attributes["count"] = [packed.entries]
    body = [
        helper.make_node(layout, ["codes", "values"], ["weight"], domain=DOMAIN, **attributes),
        helper.make_node("Conv", ["x", "weight", "bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    snake = {"Gaps8": WeightLayout.GAPS8, "Gaps4Packed": WeightLayout.GAPS4_PACKED}
    convolution = Convolution(
        input=0,
        weight=Weight(layout=snake[layout], positions=0, values=1, count=attributes.get("count", [0])[0]),
        channels=8,
        kernel=(3, 3),
        bias=2,
        residual=0,
        pads=(1, 1, 1, 1),
        activation=Activation(kind=Nonlinearity.RELU),
    )
    shape = Shape(channels=8, height=9, width=9)
    said = program or encode(Program(inputs=(shape,), constants=3, operations=(convolution,), outputs=(1,)))
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    names = ["x", "codes", "values", "bias"]
    made = helper.make_function(DOMAIN, island_name(7), names, ["y"], body, imports, attributes=[ATTRIBUTE])
    node = helper.make_node(island_name(7), names, ["y"], name="stage", domain=DOMAIN, **{ATTRIBUTE: said})
    size = ["batch", 8, 9, 9]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, size)],
        [codes, values, numpy_helper.from_array(rng.standard_normal(8).astype(np.float32), "bias")],
    )
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[function(layout, OPSET), made])


def session(model: onnx.ModelProto, *, kernels: bool, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if kernels:
        granet.kernels.register(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


IMAGES = np.random.default_rng(1).standard_normal((3, 8, 9, 9)).astype(np.float32)

with_library = pytest.mark.skipif(granet.kernels.path() is None, reason=granet.kernels.MISSING)


@with_library
@pytest.mark.parametrize("layout", ["Gaps8", "Gaps4Packed"])
def test_an_island_computes_the_same_with_and_without_the_kernels(layout: str) -> None:
    model = island(layout=layout)
    plain = session(model, kernels=False).run(None, {"x": IMAGES})[0]
    fast = session(model, kernels=True).run(None, {"x": IMAGES})[0]
    assert np.abs(plain - fast).max() < 1e-5 * np.abs(plain).max()
    # Proof that it was the kernels: the order of their sums is another one.
    assert not np.array_equal(plain, fast)


@with_library
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    found = [session(island(), kernels=True, threads=n).run(None, {"x": IMAGES})[0] for n in (1, 2, 3)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@with_library
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (island(program=[2, 1]), "island stage: a program of format 2"),
        (island(damage=5), "island stage: operation 0: "),
    ],
    ids=["format", "codes"],
)
def test_a_damaged_island_is_refused_by_name_when_the_session_opens(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(Exception, match=message):
        session(model, kernels=True)


@with_library
def test_data_of_other_sizes_than_the_program_has_are_refused() -> None:
    model = island()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    opened = session(model, kernels=True)
    with pytest.raises(Exception, match=r"input 0 of shape \[3, 8, 4, 9\]; expected \[3, 8, 9, 9\]"):
        opened.run(None, {"x": IMAGES[:, :, :4]})


def test_without_the_library_registering_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("granet.kernels.library.path", lambda: None)
    with pytest.raises(UsageError, match="installed without its kernels"):
        granet.kernels.register(onnxruntime.SessionOptions())
