"""ONNX files on disk: what is read of strangers' files, and what is left when writing fails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters import onnx_files, runtime
from granet.errors import DeviceError, FileError, GranetError, ModelError, UnknownNameError


def model(weight: np.ndarray | None = None) -> onnx.ModelProto:
    """x @ w + b."""
    weight = np.arange(2000, dtype=np.float32).reshape(2, 1000) if weight is None else weight
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(1000, np.float32), "b")]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1000])],
        tensors,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weight_of(read: onnx.ModelProto) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in read.graph.initializer if tensor.name == "w"))


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose data lie in a second file."""
    folder = tmp_path / "models"
    folder.mkdir()
    with onnx_files.staging(folder / "m.onnx") as staging:
        staging.write(model(), "m.onnx", inline=100)
        staging.publish(["m.onnx"])
    return folder / "m.onnx"


def rewritten(path: Path, **entries: str) -> Path:
    """The same model, describing the data of its weight otherwise."""
    proto = onnx.ModelProto.FromString(path.read_bytes())
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "w")
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    onnx_files.write(tmp_path / "m.onnx", model())
    assert onnx_files.read(tmp_path / "m.onnx") == model()
    assert names(tmp_path) == ["m.onnx"]


def test_a_large_model_has_its_data_in_a_second_file(split: Path) -> None:
    _, data = names(split.parent)
    assert data.startswith("m.onnx.")
    assert split.stat().st_size < 1000
    assert onnx_files.size(split) > 12_000
    assert onnx_files.read(split) == model()
    onnx.checker.check_model(split, full_check=True)
    session = runtime.open_session(split)
    assert np.array_equal(session.run([np.ones((3, 2), np.float32)])[0][0], model_output())


def model_output() -> np.ndarray:
    return np.arange(2000, dtype=np.float32).reshape(2, 1000).sum(0) + 1


def test_replacing_a_large_model_leaves_no_data_of_the_old_one(split: Path) -> None:
    bystander = split.with_name("m.onnx.data")
    bystander.write_text("not ours")
    before = set(split.parent.iterdir())
    with onnx_files.staging(split) as staging:
        staging.write(model(np.zeros((2, 1000), np.float32)), split.name, inline=100)
        assert set(split.parent.iterdir()) - before == {split.with_name(".m.onnx.tmp")}
        staging.publish([split.name])
    assert not weight_of(onnx_files.read(split)).any()
    assert bystander.exists()
    assert len(list(split.parent.iterdir())) == 3


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    target.write_text("old")

    def fail() -> None:
        with onnx_files.staging(target) as staging:
            staging.write(model(), "m.onnx")
            raise ModelError("no")

    with pytest.raises(ModelError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["m.onnx"]


def test_files_that_a_crash_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".m.onnx.tmp").mkdir()
    (tmp_path / ".m.onnx.tmp" / "half").write_text("half")
    onnx_files.write(tmp_path / "m.onnx", model())
    assert names(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("target", ["nowhere/m.onnx", "file/m.onnx", "folder"])
def test_a_target_that_cannot_be_written_is_an_error_at_once(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=target), onnx_files.staging(tmp_path / target):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x08\x0a", model().SerializeToString()[:-500], bytes(1000), b"# README\n\nwords, many words\n"],
)
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        onnx_files.read(path)
    with pytest.raises(ModelError, match="ONNX Runtime cannot open"):
        runtime.open_session(path)


def test_pipes_and_folders_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", tmp_path, tmp_path / "nowhere.onnx"):
        with pytest.raises(FileError):
            onnx_files.read(path)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd", "", ".", "link.data", "sub/../../secret.data"])
def test_data_outside_the_folder_are_not_touched(split: Path, location: str) -> None:
    secret = split.parent.parent / "secret.data"
    secret.write_bytes(bytes(9000))
    split.with_name("link.data").symlink_to(secret)
    with pytest.raises(GranetError, match="folder"):
        onnx_files.read(rewritten(split, location=location))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "999999"},
        {"length": "999999999999"},
        {"offset": "-1"},
        {"length": "many"},
        {"length": "9" * 5000},
    ],
)
def test_external_data_outside_the_file_are_refused(split: Path, entries: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="data"):
        onnx_files.read(rewritten(split, **entries))


def test_the_optimised_graph_can_be_read_without_its_tensors(tmp_path: Path) -> None:
    onnx_files.write(tmp_path / "m.onnx", model())
    runtime.open_session(tmp_path / "m.onnx", optimised=tmp_path / "o.onnx")
    assert onnx_files.read(tmp_path / "o.onnx", external=False).graph.node[0].op_type == "Gemm"


def test_constants_that_are_computed_in_every_run_are_found() -> None:
    graph = model().graph
    assert runtime.unfolded(graph) == []
    constant = helper.make_node("Neg", ["b"], ["negated"], name="minus")
    graph.node.insert(0, constant)
    graph.node.insert(0, helper.make_node("RandomNormal", [], ["noise"], shape=[1]))
    assert runtime.unfolded(graph) == ["Neg minus"]


def test_session_errors_are_model_and_device_errors(tmp_path: Path) -> None:
    onnx_files.write(tmp_path / "m.onnx", model())
    session = runtime.open_session(tmp_path / "m.onnx", level="basic")
    assert (session.inputs, session.shapes, session.outputs) == (("x",), (("batch", 2),), ("y",))
    with pytest.raises(ModelError, match="another number of inputs"):
        session.run([])
    with pytest.raises(ModelError, match=r"could not run the model; got .*invalid dimensions"):
        session.run([np.ones((1, 3), np.float32)])
    with pytest.raises(UnknownNameError):
        runtime.open_session(tmp_path / "m.onnx", level="most")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="onnxruntime " + onnxruntime.__version__):
        runtime.open_session(tmp_path / "m.onnx", provider="NoSuchExecutionProvider")
