"""Measurements of real files in real processes, on the CPU: structure, proofs, refusals and interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.bench.controls import declared_inputs
from exporters.bench.process import DoesNotFitError, WorkerProcess
from exporters.bench.protocol import Spec
from exporters.bench.report import BenchReport, BenchResult
from exporters.bench.runner import measure
from exporters.bench.settings import BenchSettings
from exporters.bench.worker import Worker, prepare
from granet.errors import BenchmarkError, GranetError, ModelError, UsageError
from granet_cli.app import run
from tests.bench_networks import write_network

QUICK: dict[str, Any] = {
    "provider": "cpu",
    "threads": 1,
    "time_limit": 0.5,
    "processes": 3,
    "blocks": 3,
    "burst": 0.01,
    "warm_up": 0.01,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its twin, and one that has much more to do."""
    folder = tmp_path_factory.mktemp("models")
    write_network(folder / "sparse.onnx", density=0.1)
    write_network(folder / "dense.onnx")
    write_network(folder / "slow.onnx", layers=12)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> BenchReport:
    """Two models against one control, on two batch sizes, one of which is beyond all memory."""
    settings = BenchSettings(**{**QUICK, "batches": (2, 10**9)})
    return measure([folder / "sparse.onnx", folder / "slow.onnx"], settings, control=folder / "dense.onnx")


def result(report: BenchReport, name: str) -> BenchResult:
    (found,) = (each for each in report.results if Path(each.model).name == name)
    return found


def test_a_model_with_more_layers_is_called_slower(report: BenchReport) -> None:
    slow = result(report, "slow.onnx")
    assert slow.ratio is not None
    assert slow.ratio.value > 3.0
    assert slow.ratio.low > 1.0
    assert slow.outcome == "slower"
    assert "times the control's FLOPs" in slow.verdict


def test_flops_of_zero_weights_are_counted_and_save_no_time(report: BenchReport) -> None:
    sparse = result(report, "sparse.onnx")
    assert sparse.flops == 2 * 2 * 12 * 12 * 8 * 3 * 9
    assert sparse.active_flops is not None
    assert 0.03 < sparse.active_flops / sparse.flops < 0.2
    assert sparse.ratio is not None
    assert sparse.ratio.value < 3.0


def test_the_json_has_every_figure(report: BenchReport) -> None:
    document = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert {"environment", "method", "results", "failures", "models", "warnings"} <= document.keys()
    assert document["environment"]["onnxruntime"]["package"].startswith("onnxruntime")
    for entry in document["results"]:
        assert entry["provider"] == "cpu"
        assert entry["batch"] == 2
        assert 0 < entry["median_ms"] <= entry["p90_ms"] <= entry["p95_ms"] <= entry["p99_ms"]
        assert entry["images_per_s"] == pytest.approx(2e3 / entry["median_ms"])
        assert entry["ratio_low"] <= entry["ratio"] <= entry["ratio_high"]
        assert entry["processes"] >= 3
        assert entry["samples"] > 0
        assert entry["mean_ms"] > 0
        assert entry["peak_memory_bytes"] > 10**7
        assert entry["bytes"] == Path(entry["model"]).stat().st_size
        assert entry["verdict"]
    assert [entry["role"] for entry in document["results"]] == ["model", "model", "control"]


def test_the_profile_shows_where_nodes_ran(report: BenchReport) -> None:
    for model in report.models:
        assert model.nodes.keys() == {"CPUExecutionProvider"}
        assert model.operators["CPUExecutionProvider"]["Conv"] >= 1
        assert len(model.sha256) == 64


def test_a_batch_that_does_not_fit_is_reported_and_the_others_are_measured(report: BenchReport) -> None:
    assert {failure.batch for failure in report.failures} == {10**9}
    assert len(report.failures) == 3
    assert all("memory" in failure.error for failure in report.failures)


def test_models_with_other_inputs_are_refused(folder: Path) -> None:
    write_network(folder / "larger.onnx", size=16)
    with pytest.raises(UsageError, match="different inputs"):
        measure([folder / "larger.onnx"], BenchSettings(**QUICK), control=folder / "dense.onnx")


def test_a_fixed_batch_size_is_named(folder: Path) -> None:
    fixed = write_network(folder / "fixed.onnx", batch=1)
    with pytest.raises(UsageError, match=r"fixed batch size.*--batch 1"):
        measure([fixed], BenchSettings(**QUICK, batches=(1, 8)), control=fixed)


def test_a_file_that_onnx_runtime_rejects_is_named(folder: Path) -> None:
    unknown = write_network(folder / "unknown.onnx", operator="NoSuchOperator")
    for path in (unknown, folder / "nothing.onnx"):
        with pytest.raises(GranetError, match=path.name) as caught:
            measure([path], BenchSettings(**QUICK), control=folder / "dense.onnx")
        assert caught.value.exit_code == 1


def test_external_data_outside_the_folder_are_refused(folder: Path) -> None:
    path = write_network(folder / "escaping.onnx")
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        measure([path], BenchSettings(**QUICK), control=folder / "dense.onnx")


def test_an_error_in_a_worker_arrives_as_the_same_error() -> None:
    with WorkerProcess(where="x.onnx") as worker, pytest.raises(ModelError, match="rejects the file"):
        worker.open(Spec(engine="onnx", path="x.onnx", provider="cpu"), limit=60)


def test_a_process_that_dies_or_is_silent_is_an_error(folder: Path) -> None:
    with WorkerProcess(where="x") as worker:
        os.kill(worker.pid, signal.SIGTERM)
        with pytest.raises(BenchmarkError, match=r"died.*SIGTERM"):
            worker.ask({"do": "memory"}, limit=60)
    with WorkerProcess(where="x") as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(DoesNotFitError, match="killed"):
            worker.ask({"do": "memory"}, limit=60)
    with WorkerProcess(where="x") as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(BenchmarkError, match="no answer in time"):
            worker.ask({"do": "memory"}, limit=0.1)


def test_flops_that_cannot_be_counted_are_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise ValueError("no shapes\nand more")

    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # restored afterwards: the worker sets it in its process
    monkeypatch.setattr("exporters.bench.work.measure", fail)
    path = write_network(tmp_path / "a.onnx")
    spec = Spec(engine="onnx", path=str(path), provider="cpu", inputs=declared_inputs(onnx.load(path)))
    answer = Worker().answer({"do": "examine", "spec": asdict(spec), "scratch": str(tmp_path)})
    assert answer["work"] == {"remark": "FLOPs are not known: no shapes"}
    assert answer["operators"]["CPUExecutionProvider"]["Conv"] == 1


@pytest.mark.parametrize(("precision", "override"), [("fp32", "0"), ("tf32", None), ("fp16", None)])
def test_tensorrt_computes_fp32_without_tf32(
    precision: str, override: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    spec = Spec(engine="onnx", path="a.onnx", provider="tensorrt", precision=precision, shape=(3, 8, 8))
    assert prepare(json.loads(json.dumps(asdict(spec)))) == spec
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == override
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_flops_match_a_graph_counted_by_hand(tmp_path: Path) -> None:
    work = pytest.importorskip("exporters.bench.work")
    half = np.array([[1, 0, 2, 0], [0, 1, 0, 2]], np.float32)
    weights = {"w": np.ones((4, 2, 3, 3), np.float32), "t": np.ones((4, 2, 2, 2), np.float32), "g": half}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], group=2, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "t"], ["b"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["a"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "g"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 5, 5])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "b")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    found = work.measure(tmp_path / "g.onnx")
    conv, transposed, gemm = 2 * 4 * 25 * 2 * 9, 2 * 4 * 25 * 2 * 4, 2 * 2 * 4
    assert found.flops == 2 * (conv + transposed + gemm)
    assert found.active_flops == 2 * (conv + transposed + gemm / 2)
    assert (found.two_of_four, found.unfolded) == (1, 0)


def test_missing_cuda_libraries_are_named_in_an_error(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert run(["bench", str(folder / "dense.onnx"), "--provider", "cuda"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "libcuda.so.1 (the NVIDIA driver)" in err or "CUDAExecutionProvider (not in this build" in err
    assert "onnxruntime:" not in err  # none of its own chatter


def test_the_command_writes_json_a_picture_and_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, picture, model = folder / "out.json", folder / "out.svg", str(folder / "dense.onnx")
    arguments = ["bench", model, "--control", model, "--threads", "1", "--time-limit", "0.5", "--processes", "3"]
    assert run([*arguments, "--json", str(out), "--plot", str(picture)]) == 0
    table, told = capfd.readouterr()
    assert "median ms" in table
    assert "no difference" in table or "same file" in table
    assert "--provider auto takes" in told
    document = json.loads(out.read_text())
    assert document["results"][0]["control"] == f"{model} (2)"
    assert "images/s" in picture.read_text()
    assert run([*arguments, "--json", str(out)]) == 2  # it is there already
    assert "--overwrite" in capfd.readouterr().err
    assert run([*arguments, f"--json={model}", "--overwrite"]) == 2
    assert onnx.load(model).graph.node


def test_mistakes_on_the_command_line_are_refused_at_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = str(folder / "dense.onnx")
    for arguments, problem in (
        ([], "no model was given"),
        ([model, "--batch", "1,x"], "list of numbers"),
        ([model, "--provider", "cdua"], "mean 'cuda'"),
        ([model, "--precision", "fp16", "--provider", "cpu"], "--compute fp16"),
        ([model, "--option", "a"], "KEY=VALUE"),
        ([model, "--json", "nowhere/out.json"], "no such folder"),
        ([model, "--encodings", "gaps8"], "--encodings: this option has no effect"),
        ([model, "--overwrite"], "--overwrite: this option has no effect"),
        (["best.safetensors"], "--torch best.safetensors"),
    ):
        assert run(["bench", *arguments]) == 2, arguments
        assert problem in capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_ctrl_c_prints_what_was_measured_and_leaves_no_process(folder: Path) -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "granet_cli", "bench", str(folder / "dense.onnx"), "--json", "--threads", "1"]
    command += ["--control", str(folder / "dense.onnx"), "--time-limit", "300", "--width", "0.000001"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "MARK": mark}
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "process 1 of each" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["interrupted"]
    assert document["results"][0]["samples"] > 0
    end = time.monotonic() + 10
    while (left := _marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def _marked(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found
