"""A checkpoint becomes an ONNX file that computes the same, or nothing at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from exporters import graph_cleanup, metadata, onnx_export, onnx_files, proof
from exporters.onnx_export import ExportReport, ExportSettings, export, twin_of
from granet.checkpoint import Checkpoint
from granet.errors import CheckpointError, ModelError, UnknownNameError, UsageError
from granet.models import from_checkpoint
from tests import export_networks as networks

LEVELS = [
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
]
Arrays = list[np.ndarray[Any, Any]]


def exported(value: Checkpoint, output: Path, *, example: str | None = None, **settings: Any) -> ExportReport:
    loaded = dataclasses.replace(value, stored_hash="0" * 64)
    return export(loaded, output, ExportSettings(**settings), factory=value.network.name, example=example)


def run(path: Path, *inputs: np.ndarray[Any, Any], level: Any = LEVELS[-1]) -> Arrays:
    """In ONNX Runtime, by nothing but its own API."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {node.name: array for node, array in zip(session.get_inputs(), inputs, strict=True)})


def images(count: int) -> np.ndarray[Any, Any]:
    shape = (count, networks.CHANNELS, networks.SIZE, networks.SIZE)
    return np.random.default_rng(count).normal(size=shape).astype(np.float32)


def in_torch(value: Checkpoint, *inputs: np.ndarray[Any, Any]) -> Arrays:
    model = from_checkpoint(value, factory=value.network.name, trial=False).eval()
    with torch.no_grad():
        outputs = model(*map(torch.from_numpy, inputs))
    if isinstance(outputs, tuple):
        return [outputs[0].numpy(), outputs[1]["right"].numpy()]
    return [outputs.numpy()]


def initializers(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx_files.read(path).graph.initializer}


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    with networks.traced_once():
        yield


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return networks.checkpoint(networks.small)


@pytest.fixture(scope="module")
def pair(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportReport, Path, Path]:
    """A file and its dense twin."""
    output = tmp_path_factory.mktemp("pair") / "sparse.onnx"
    return exported(small, output, twin=True), output, twin_of(output)


# What comes out


def test_the_file_computes_what_torch_computes(small: Checkpoint, pair: tuple[ExportReport, Path, Path]) -> None:
    for count in (1, 2, 17):
        expected = in_torch(small, images(count))[0]
        for level in LEVELS:
            np.testing.assert_allclose(run(pair[1], images(count), level=level)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_file_and_its_dense_twin_return_the_same_bits(pair: tuple[ExportReport, Path, Path]) -> None:
    _, sparse, twin = pair
    for level in LEVELS:
        ours, theirs = run(sparse, images(9), level=level)[0], run(twin, images(9), level=level)[0]
        assert ours.tobytes() == theirs.tobytes()


def test_the_twin_has_the_weights_of_the_checkpoint(small: Checkpoint, pair: tuple[ExportReport, Path, Path]) -> None:
    weights = initializers(pair[2])
    assert np.array_equal(weights["hidden.weight"], small.weights["hidden.weight"].numpy())
    for name, mask in small.masks.items():
        inactive = weights[name][~mask.numpy()]
        assert not inactive.any()
        assert not np.signbit(inactive).any()


def test_both_conform_to_the_standard(pair: tuple[ExportReport, Path, Path]) -> None:
    for path in pair[1:]:
        onnx.checker.check_model(path, full_check=True)
        onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)


def test_inputs_and_outputs_have_names_and_a_free_batch_size(pair: tuple[ExportReport, Path, Path]) -> None:
    session = onnxruntime.InferenceSession(pair[1], providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, 8, 8])
    assert (answer.name, answer.shape) == ("logits", ["batch", 3])


def test_the_report_says_what_is_in_the_file(small: Checkpoint, pair: tuple[ExportReport, Path, Path]) -> None:
    report, sparse, twin = pair
    assert report.bytes == sparse.stat().st_size
    assert report.dense_bytes == twin.stat().st_size
    assert report.limit_bytes < report.bytes
    assert report.active == sum(int(mask.sum()) for mask in small.masks.values())
    assert report.parameters == sum(mask.numel() for mask in small.masks.values())
    assert report.encodings.keys() == small.masks.keys()
    assert report.proof.bit_identical == ("basic", "all")
    assert (report.proof.unfolded, report.proof.argmax_agreement) == (0, 1.0)
    assert 0 < report.proof.max_rel_error <= report.proof.tolerance


def test_the_metadata_have_the_origin_and_the_proof(pair: tuple[ExportReport, Path, Path]) -> None:
    entries = {entry.key: json.loads(entry.value) for entry in onnx_files.read(pair[1]).metadata_props}
    assert entries.keys() == {"granet.checkpoint", "granet.weights", "granet.proof"}
    assert entries["granet.checkpoint"]["content_hash"] == "0" * 64
    assert entries["granet.checkpoint"]["network"]["classes"] == list(networks.CLASSES)
    weights = entries["granet.weights"]
    assert {name: tensor["encoding"] for name, tensor in weights["tensors"].items()} == dict(pair[0].encodings)
    assert weights["active"] == pair[0].active
    assert entries["granet.proof"]["max_abs_error"] == pair[0].proof.max_abs_error
    assert entries["granet.proof"]["versions"]["onnxruntime"] == onnxruntime.__version__


def test_nothing_of_this_machine_is_in_the_file(pair: tuple[ExportReport, Path, Path]) -> None:
    content = pair[1].read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"stack_trace" not in content


def test_equal_checkpoints_give_equal_files(
    small: Checkpoint, pair: tuple[ExportReport, Path, Path], tmp_path: Path
) -> None:
    exported(networks.checkpoint(networks.small), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == pair[1].read_bytes()


@pytest.mark.parametrize("encoding", ["gaps8", "gaps4", "bitmask", "coo", "dense"])
def test_every_encoding_decodes_to_the_same_weights(small: Checkpoint, tmp_path: Path, encoding: str) -> None:
    output = tmp_path / "m.onnx"
    report = exported(small, output, encoding=encoding)
    assert encoding in report.encodings.values()
    np.testing.assert_allclose(run(output, images(5))[0], in_torch(small, images(5))[0], rtol=1e-4, atol=1e-5)
    assert any("sparse initializer" in remark for remark in report.remarks) == (encoding == "coo")


@pytest.mark.parametrize(
    ("precision", "compute", "error"),
    [("fp16", "fp32", 0.01), ("int8", "fp32", 0.1), ("fp16", "fp16", 0.02), ("int8", "fp16", 0.1)],
)
def test_errors_of_coarser_values_are_in_the_expected_range(
    small: Checkpoint, pair: tuple[ExportReport, Path, Path], tmp_path: Path, precision: str, compute: str, error: float
) -> None:
    output = tmp_path / "m.onnx"
    report = exported(small, output, precision=precision, compute=compute, twin=True)
    expected = in_torch(small, images(5))[0]
    given = run(output, images(5))[0]
    assert given.dtype == np.float32
    assert 0 < np.abs(given - expected).max() < error * np.abs(expected).max()
    assert given.tobytes() == run(twin_of(output), images(5))[0].tobytes()
    assert report.bytes < pair[0].bytes
    assert report.proof.max_abs_error > pair[0].proof.max_abs_error


def test_the_opset_is_the_one_asked_for(small: Checkpoint, tmp_path: Path) -> None:
    report = exported(small, tmp_path / "m.onnx", opset=18)
    versions = {entry.domain: entry.version for entry in onnx_files.read(tmp_path / "m.onnx").opset_import}
    assert (report.opset, versions[""]) == (18, 18)


def test_a_large_model_has_its_data_in_a_second_file(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[ExportReport, Path, Path]
) -> None:
    monkeypatch.setattr(onnx_files.StagingFolder.write, "__kwdefaults__", {"inline": 4000})
    report = exported(small, tmp_path / "m.onnx", twin=True)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".data", ".onnx", ".onnx"]
    assert run(tmp_path / "m.onnx", images(5))[0].tobytes() == run(pair[1], images(5))[0].tobytes()
    assert run(tmp_path / "m.dense.onnx", images(5))[0].tobytes() == run(pair[1], images(5))[0].tobytes()
    assert report.dense_bytes > (tmp_path / "m.dense.onnx").stat().st_size


# Other networks


def test_two_inputs_and_two_outputs(tmp_path: Path) -> None:
    value, output = networks.checkpoint(networks.two_inputs), tmp_path / "m.onnx"
    report = exported(value, output, example="tests.export_networks:picture_and_word")
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["input_0", "input_1"]
    assert [node.shape[0] for node in session.get_inputs()] == ["batch", "batch"]
    assert [node.name for node in session.get_outputs()] == ["output_0", "output_1"]
    pictures, words = np.ones((3, 3, 6, 6), np.float32), np.array([1, 5, 9])
    for ours, theirs in zip(run(output, pictures, words), in_torch(value, pictures, words), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert report.proof.real == 0


def test_tied_and_transposed_weights_are_found(tmp_path: Path) -> None:
    value = networks.checkpoint(networks.tied)
    report = exported(value, tmp_path / "m.onnx")
    assert report.active == sum(int(mask.sum()) for mask in value.masks.values())
    assert len(report.encodings) == len(value.masks) == 3
    np.testing.assert_allclose(
        run(tmp_path / "m.onnx", images(5))[0], in_torch(value, images(5))[0], rtol=1e-4, atol=1e-5
    )


def test_parameters_that_only_training_uses_are_left_out_with_a_remark(tmp_path: Path) -> None:
    report = exported(networks.checkpoint(networks.with_head), tmp_path / "m.onnx")
    assert "body.hidden.weight" in report.encodings
    assert not any(name.startswith("head") for name in report.encodings)
    assert any("head.bias, head.weight" in remark for remark in report.remarks)


def test_scales_stay_fp32_in_a_graph_in_fp16(tmp_path: Path) -> None:
    value = networks.checkpoint(networks.enlarging)
    exported(value, tmp_path / "m.onnx", precision="fp16", compute="fp16")
    np.testing.assert_allclose(run(tmp_path / "m.onnx", images(5))[0], in_torch(value, images(5))[0], atol=0.01)


def test_active_weights_that_are_zero_are_counted_in_a_remark(small: Checkpoint, tmp_path: Path) -> None:
    weights = {name: weight.clone() for name, weight in small.weights.items()}
    grown = small.masks["hidden.weight"].nonzero()[:4]
    weights["hidden.weight"][grown[:, 0], grown[:, 1]] = 0
    report = exported(dataclasses.replace(small, weights=weights), tmp_path / "m.onnx")
    assert report.zeros == 4
    assert report.active == sum(int(mask.sum()) for mask in small.masks.values())
    assert any("not stored: 4" in remark for remark in report.remarks)


def test_compact_removes_channels_without_effect(small: Checkpoint, tmp_path: Path) -> None:
    weights = {name: weight.clone() for name, weight in small.weights.items()}
    masks = {name: mask.clone() for name, mask in small.masks.items()}
    for values in (weights, masks):
        values["classifier.weight"][:, :8] = False
    value = dataclasses.replace(small, weights=weights, masks=masks, explored=masks)
    report = exported(value, tmp_path / "m.onnx", compact=True, twin=True)
    assert initializers(tmp_path / "m.dense.onnx")["classifier.weight"].shape[1] <= 24
    assert report.compaction is not None
    assert report.compaction.removed >= 8
    assert report.parameters < sum(mask.numel() for mask in masks.values())
    np.testing.assert_allclose(
        run(tmp_path / "m.onnx", images(5))[0], in_torch(value, images(5))[0], rtol=1e-4, atol=1e-5
    )


# Tools of others


def test_onnxslim_simplifies_the_file(pair: tuple[ExportReport, Path, Path], tmp_path: Path) -> None:
    import onnxslim

    slim = onnxslim.slim(str(pair[1]))
    onnx.save(slim, tmp_path / "slim.onnx")
    np.testing.assert_allclose(
        run(tmp_path / "slim.onnx", images(5))[0], run(pair[1], images(5))[0], rtol=1e-5, atol=1e-6
    )


def test_onnxsim_simplifies_the_file(pair: tuple[ExportReport, Path, Path], tmp_path: Path) -> None:
    import onnxsim

    simple, sound = onnxsim.simplify(str(pair[1]))
    assert sound
    onnx.save(simple, tmp_path / "simple.onnx")
    np.testing.assert_allclose(
        run(tmp_path / "simple.onnx", images(5))[0], run(pair[1], images(5))[0], rtol=1e-5, atol=1e-6
    )


# Every link of the proof can break


def _wrong(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, spoil: Callable[[Any], None]) -> None:
    """Spoils what a function of the pipeline made: its result or, when there is none, its first argument."""
    right = getattr(module, name)

    def wrong(*arguments: Any, **settings: Any) -> Any:
        result = right(*arguments, **settings)
        spoil(arguments[0] if result is None else result)
        return result

    monkeypatch.setattr(module, name, wrong)


def _negate_bias(model: onnx.ModelProto) -> None:
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(bias), bias.name))


@pytest.mark.parametrize(
    ("module", "name", "precision", "message"),
    [
        (graph_cleanup, "serialize", "fp32", "the exported file does not compute what the torch network computes"),
        (graph_cleanup, "serialize", "fp16", "the exported graph does not compute what the torch network computes"),
        (onnx_export, "inflate", "fp32", "classifier.bias: values that do not decode to the originals"),
        (metadata, "write_", "fp32", "the finished file gives other results than the one that was proved"),
    ],
)
def test_a_wrong_value_stops_the_export(
    small: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    precision: str,
    message: str,
) -> None:
    _wrong(monkeypatch, module, name, _negate_bias)
    with pytest.raises(ModelError, match=message):
        exported(small, tmp_path / "m.onnx", precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_between_file_and_twin_stops_the_export(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wrong(monkeypatch, onnx_export, "inflate", _negate_bias)
    monkeypatch.setattr(proof, "check_stored", lambda *_: None)
    with pytest.raises(ModelError, match=r"dense twin give different results; .*expected the same bits"):
        exported(small, tmp_path / "m.onnx")


def test_decoders_that_are_not_folded_stop_the_export(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "LEVELS", ("disabled",))
    with pytest.raises(ModelError, match="ONNX Runtime does not fold the decoders"):
        exported(small, tmp_path / "m.onnx")


def test_a_graph_that_does_not_conform_stops_the_export(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9

    _wrong(monkeypatch, metadata, "write_", claim)
    with pytest.raises(ModelError, match="does not conform"):
        exported(small, tmp_path / "m.onnx")


# What fails leaves nothing


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (networks.bessel, "torch cannot export .*bessel_j0"),
        (networks.branching, "torch cannot export .*data-dependent"),
        (networks.random, "vary from run to run"),
        (networks.doubling, r"fc.weight: a masked weight is not in the exported graph"),
    ],
)
def test_a_network_that_cannot_be_exported_leaves_the_old_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], factory: Callable[[], nn.Module], message: str
) -> None:
    output = tmp_path / "m.onnx"
    output.write_text("old")
    with pytest.raises(ModelError, match=message) as caught:
        exported(networks.checkpoint(factory), output, twin=True)
    assert len(str(caught.value)) < 700
    assert capfd.readouterr() == ("", "")
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_a_weight_beyond_fp16_is_named(tmp_path: Path, compute: str) -> None:
    with pytest.raises(ModelError, match=r"weight.*65504"):
        exported(networks.checkpoint(networks.small, scale=1e6), tmp_path / "m.onnx", precision="fp16", compute=compute)
    assert list(tmp_path.iterdir()) == []


def test_intermediate_values_beyond_fp16_stop_the_export(tmp_path: Path) -> None:
    value = networks.checkpoint(networks.small, scale=3e3)
    with pytest.raises(ModelError, match="an intermediate value of the network is beyond the range of fp16"):
        exported(value, tmp_path / "m.onnx", precision="fp16", compute="fp16")


def test_an_opset_that_torch_does_not_honour_is_an_error(
    small: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="got 18 instead of 17; expected 18 or newer"):
        exported(small, tmp_path / "m.onnx", opset=17)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_weights_outside_their_mask_stop_the_export(small: Checkpoint, tmp_path: Path) -> None:
    weights = {**small.weights, "hidden.weight": torch.ones(32, 16)}
    with pytest.raises(CheckpointError, match=r"hidden.weight: .*outside"):
        exported(dataclasses.replace(small, weights=weights), tmp_path / "m.onnx")


def test_outputs_that_are_not_finite_stop_the_export(small: Checkpoint, tmp_path: Path) -> None:
    weights = {**small.weights, "classifier.bias": torch.full((3,), torch.nan)}
    with pytest.raises(ModelError, match="not finite"):
        exported(dataclasses.replace(small, weights=weights), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("tests.export_networks:words_alone", "not an example of inputs; got str"),
        ("tests.export_networks:nothing", "has no 'nothing'"),
        ("tests.export_networks", "package.module:factory"),
        ("tests.export_networks:picture_and_word", "cannot take inputs of"),
    ],
)
def test_an_example_factory_has_to_return_tensors_that_fit(
    small: Checkpoint, tmp_path: Path, example: str, message: str
) -> None:
    with pytest.raises((UsageError, ModelError), match=message):
        exported(small, tmp_path / "m.onnx", example=example)


def test_unknown_or_contradictory_settings_are_errors() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'gaps8'"):
        ExportSettings(encoding="gap8")
    with pytest.raises(UnknownNameError, match="--precision"):
        ExportSettings(precision="bf16")
    with pytest.raises(UsageError, match="no values in fp32"):
        ExportSettings(compute="fp16")
