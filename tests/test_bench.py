"""Measurements: statistics that hold what they promise, fair turns, and controls that are the right ones."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.bench import inputs, planning, providers, statistics
from exporters.bench.clocks import Clocks, Gpu, Sample, summarise
from exporters.bench.comparison import ComparisonOutcome, Contender, compare
from exporters.bench.controls import assign, declared_inputs
from exporters.bench.placement import check
from exporters.bench.planning import Planner, Scenario
from exporters.bench.process import DoesNotFitError
from exporters.bench.protocol import NAMES, Input, Opened, Refusal, Spec
from exporters.bench.report import Model
from exporters.bench.runner import warnings_after, warnings_before
from exporters.bench.settings import BenchSettings
from exporters.bench.statistics import Ratio
from exporters.bench.verdict import Facts, judge
from granet.errors import BenchmarkError, ModelError, UnknownNameError, UsageError
from granet_cli.bench.command import complete_json
from tests.bench_networks import Machine, write_network

SPEC = Spec(engine="onnx", path="a.onnx", provider="cpu")
A, B = Contender("a", SPEC, "control"), Contender("control", SPEC, None)


def simulate(machine: Machine, ratio: float, *, seed: int = 0, **settings: float) -> ComparisonOutcome:
    machine.latency = {"a": 0.002 * ratio, "control": 0.002}
    chosen = BenchSettings(provider="cpu", time_limit=15.0, seed=seed, blocks=4, burst=0.02, **settings)
    return compare([A, B], chosen, start=machine.start, clock=machine.clock)


def found(outcome: ComparisonOutcome) -> Ratio:
    ratio = outcome.tracks["a"].ratio()
    assert ratio is not None
    return ratio


# What an interval promises


def test_the_interval_of_equal_models_contains_one() -> None:
    results = [found(simulate(Machine(seed=seed), 1.0, seed=seed)) for seed in range(20)]
    assert sum(not result.differs for result in results) >= 19
    assert all(result.width < 0.1 for result in results)


def test_a_slower_model_is_found_to_differ() -> None:
    results = [found(simulate(Machine(seed=seed), 1.10, seed=seed)) for seed in range(10)]
    assert all(result.low > 1.0 and result.low <= 1.10 <= result.high for result in results)


def test_drift_over_the_measurement_is_not_a_difference() -> None:
    for seed in range(5):
        result = found(simulate(Machine(seed=seed, layout=0.0, noise=0.0, drift=0.05), 1.0, seed=seed))
        assert result.value == pytest.approx(1.0, abs=2e-3)
        assert not result.differs


def test_an_even_drift_cancels_within_a_block() -> None:
    assert statistics.block([1.0, 1.3], [1.1, 1.2]) == pytest.approx(0.0, abs=0.01)


def test_the_interval_depends_on_processes_and_not_on_runs() -> None:
    # A thousand blocks of two processes that disagree say less than ten of ten that agree.
    apart = statistics.ratio([[0.05] * 500, [-0.05] * 500])
    alike = statistics.ratio([[0.05]] * 5 + [[0.049]] * 5)
    assert apart.width > 1.0
    assert not apart.differs
    assert alike.differs


def test_one_block_gives_an_unbounded_interval() -> None:
    result = statistics.ratio([[0.1]])
    assert (result.low, result.high) == (0.0, math.inf)
    assert not result.differs


def test_without_blocks_there_is_no_ratio() -> None:
    with pytest.raises(ValueError, match="no block"):
        statistics.ratio([[], []])


@pytest.mark.parametrize(("freedom", "level", "quantile"), [(1, 0.95, 12.706), (4, 0.99, 4.604), (30, 0.95, 2.042)])
def test_quantiles_of_the_t_distribution_match_tables(freedom: int, level: float, quantile: float) -> None:
    assert statistics._student(freedom, level) == pytest.approx(quantile, abs=2e-3)


def test_the_same_blocks_give_the_same_interval() -> None:
    blocks = [list(np.random.default_rng(n).normal(0, 0.1, 5)) for n in range(4)]
    assert statistics.ratio(blocks) == statistics.ratio(blocks)


def test_times_are_summarised_by_quantiles_mean_and_deviation() -> None:
    summary = statistics.summarise([float(n) for n in range(1, 102)])
    assert (summary.median, summary.mean, summary.p90, summary.p99) == (51.0, 51.0, 91.0, 100.0)
    assert summary.samples == 101
    assert statistics.summarise([2.0]).deviation == 0.0


# Turns


def test_every_generation_starts_and_closes_its_own_processes() -> None:
    machine = Machine(seed=0)
    outcome = simulate(machine, 1.0)
    assert machine.alive == 0
    assert outcome.generations >= 5
    assert len(outcome.tracks["a"].opened) == outcome.generations


def test_measuring_stops_when_the_interval_is_narrow() -> None:
    quick = simulate(Machine(seed=0, layout=0.0, noise=0.001), 1.0)
    noisy = simulate(Machine(seed=0, layout=0.03, noise=0.1), 1.0)
    assert quick.generations == 5
    assert found(quick).width < 0.01
    assert noisy.generations > 5


def test_running_out_of_time_is_a_warning() -> None:
    machine = Machine(seed=0)
    machine.latency = {"a": 0.5, "control": 0.5}
    settings = BenchSettings(provider="cpu", time_limit=5.0)
    outcome = compare([A, B], settings, start=machine.start, clock=machine.clock)
    assert outcome.generations == 5  # time or not
    warnings = warnings_after(outcome, settings, "batch 1")
    assert any("time was up" in warning for warning in warnings)
    assert any("too few" in warning for warning in warnings)


def test_the_other_models_are_measured_when_one_fails() -> None:
    machine = Machine(seed=0)
    machine.latency = {"a": 0.002, "b": 0.002, "control": 0.002}
    machine.fails = {"b": DoesNotFitError("out of memory", where="b")}
    entries = [A, Contender("b", SPEC, "control"), B]
    outcome = compare(entries, BenchSettings(provider="cpu"), start=machine.start, clock=machine.clock)
    assert "out of memory" in str(outcome.tracks["b"].failure)
    assert found(outcome).processes >= 5
    assert machine.alive == 0


def test_without_its_control_a_model_has_times_and_no_ratio() -> None:
    machine = Machine(seed=0)
    machine.fails = {"control": BenchmarkError("broken")}
    outcome = simulate(machine, 1.0)
    assert outcome.tracks["a"].ratio() is None
    assert outcome.tracks["a"].times


def test_an_interrupt_keeps_what_was_measured() -> None:
    machine = Machine(seed=0)
    machine.interrupt_at = 60
    outcome = simulate(machine, 1.0)
    assert outcome.interrupted
    assert outcome.tracks["a"].times
    assert machine.alive == 0


# What is compared with what


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "b.dense"):
        write_network(tmp_path / f"{name}.onnx")
    return tmp_path


def test_a_twin_beside_the_model_is_its_control(folder: Path) -> None:
    model, control = assign([folder / "b.onnx"], None, folder)
    assert model.control == control.label == str(folder / "b.dense.onnx")
    assert control.origin == "found beside the model"


def test_a_given_control_is_that_of_all(folder: Path) -> None:
    subjects = assign([folder / "a.onnx", folder / "b.onnx"], folder / "b.dense.onnx", folder)
    assert [subject.control for subject in subjects] == [str(folder / "b.dense.onnx")] * 2 + [None]


def test_a_single_model_is_compared_with_itself(folder: Path) -> None:
    model, control = assign([folder / "a.onnx"], None, folder)
    assert model.path == control.path
    assert model.control == control.label != model.label


def test_plain_models_are_compared_with_the_first(folder: Path) -> None:
    write_network(folder / "c.onnx")
    model, control = assign([folder / "a.onnx", folder / "c.onnx"], None, folder)
    assert model.path == folder / "c.onnx"
    assert control.path == folder / "a.onnx"


def test_a_model_that_is_also_a_control_runs_once(folder: Path) -> None:
    subjects = assign([folder / "b.onnx", folder / "b.dense.onnx"], None, folder)
    assert [subject.path.name for subject in subjects] == ["b.onnx", "b.dense.onnx"]


# Providers


def test_an_unknown_provider_suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="id you mean 'cuda'"):
        BenchSettings(provider="cdua")


def test_two_packages_of_onnx_runtime_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime", "onnxruntime"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: installed)
    with pytest.raises(BenchmarkError, match="onnxruntime and onnxruntime-gpu"):
        providers.check_packages()


def test_a_precision_that_the_provider_lacks_is_refused() -> None:
    providers.check_precision("tensorrt", "fp16")
    with pytest.raises(UsageError, match="--compute fp16"):
        providers.check_precision("cuda", "fp16")
    with pytest.raises(UnknownNameError, match="fp16"):
        providers.check_precision("cpu", "fp17")


def test_provider_options_are_complete_and_managed_ones_are_refused() -> None:
    chosen = providers.options("cuda", "fp32", {"prefer_nhwc": "1"}, graph=True)
    assert chosen["use_tf32"] == "0"
    assert chosen["enable_cuda_graph"] == "1"
    assert chosen["prefer_nhwc"] == "1"
    assert chosen["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    with pytest.raises(UsageError, match="set by granet"):
        providers.options("cuda", "fp32", {"use_tf32": "1"}, graph=False)
    with pytest.raises(UsageError, match="no options"):
        providers.options("cpu", "fp32", {"use_arena": "1"}, graph=False)


def ldd(folder: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts an ``ldd`` with that output first on the path."""
    script = folder / "ldd"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_every_library_that_is_missing_is_named_with_what_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = pytest.importorskip("exporters.bench.libraries")
    monkeypatch.setattr(libraries.onnxruntime, "get_available_providers", lambda: [*NAMES.values()])
    monkeypatch.setattr(libraries.onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    assert libraries.missing("cpu") == []
    assert libraries.missing("cuda") == ["libonnxruntime_providers_cuda.so (part of onnxruntime-gpu)"]
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").touch()
    listing = "\tlibc.so.6 => /libc.so.6 (0x7f)\n\tlibnosuch.so.13 => not found\n\tlibnvinfer_no.so.1 => not found"
    ldd(tmp_path, listing, monkeypatch)
    lacking = libraries.missing("cuda")
    assert {"libnosuch.so.13 (CUDA)", "libnvinfer_no.so.1 (TensorRT)"} <= set(lacking)
    assert not any("libc.so" in name for name in lacking)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert libraries.not_found(tmp_path / "capi/libonnxruntime_providers_cuda.so") == []
    monkeypatch.setattr(libraries.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "not in this build" in libraries.missing("cuda")[0]


def test_an_operator_on_another_provider_is_named() -> None:
    operators = {"CUDAExecutionProvider": {"Conv": 5}, "CPUExecutionProvider": {"Gather": 2}}
    with pytest.raises(BenchmarkError, match="2 nodes on CPUExecutionProvider: Gather"):
        check(["CUDAExecutionProvider", "CPUExecutionProvider"], operators, "cuda", "a.onnx")
    check(["CUDAExecutionProvider"], {"CUDAExecutionProvider": {"Conv": 5}}, "cuda", "a.onnx")


def test_a_session_on_another_provider_is_refused() -> None:
    operators = {"CPUExecutionProvider": {"Conv": 1}}
    with pytest.raises(BenchmarkError, match="not all of the graph runs on cuda"):
        check(["CPUExecutionProvider"], operators, "cuda", "a.onnx")
    with pytest.raises(ModelError, match="no node"):
        check(["CPUExecutionProvider"], {}, "cpu", "a.onnx")


class Opening:
    """A process that opens anything but what ``refuses``, and leaves an engine behind where one is to be built."""

    refuses: str | None = None

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, *_: object) -> None: ...

    def open(self, spec: Spec, *, limit: float) -> Opened:
        if self.refuses and spec.options.get(self.refuses) == "1":
            raise ModelError("it cannot be captured")
        if folder := spec.options.get("trt_engine_cache_path"):
            (Path(folder) / "x.engine").touch()
        return Opened(2.0, 1.0, "", {})


def planner(folder: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.setattr(planning, "WorkerProcess", Opening)
    settings = BenchSettings(provider=provider, cache=folder)
    models = [
        Model(label="a", path=folder / "a.onnx", control="b", sha256="1"),
        Model(label="b", path=folder / "b.onnx", control=None, sha256="2"),
    ]
    return Planner(settings, models, "H100")


def test_cuda_graphs_are_for_all_models_or_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario("cuda", "fp32", 8)
    able = planner(tmp_path, "cuda", monkeypatch).rehearse(scenario)
    assert able.refused is None
    assert all(entry.spec.options["enable_cuda_graph"] == "1" for entry in able.entries)
    monkeypatch.setattr(Opening, "refuses", "enable_cuda_graph")
    unable = planner(tmp_path, "cuda", monkeypatch).rehearse(scenario)
    assert unable.refused is not None
    assert "a cannot be captured" in unable.refused
    assert [entry.spec.options["enable_cuda_graph"] for entry in unable.entries] == ["0", "0"]
    assert not unable.failures


def test_tensorrt_runs_each_model_with_and_without_sparse_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario("tensorrt", "fp16", 8)
    plan = planner(tmp_path, "tensorrt", monkeypatch)
    entries = plan.rehearse(scenario).entries
    assert [(entry.label, entry.control, entry.spec.options["trt_sparsity_enable"]) for entry in entries] == [
        ("a", "b", "0"),
        ("a (2:4 kernels)", "b", "1"),
        ("b", None, "0"),
    ]
    assert all(entry.spec.options["trt_fp16_enable"] == "1" for entry in entries)
    assert len({entry.spec.options["trt_engine_cache_path"] for entry in entries}) == 3
    assert plan.built["a", scenario] == 3.0
    again = planner(tmp_path, "tensorrt", monkeypatch)
    again.rehearse(scenario)
    assert again.built == {}  # the engines are in the cache


# Inputs


def test_open_sizes_are_filled_and_fixed_sizes_are_checked() -> None:
    def resolve(*sizes: int | str | None, shape: tuple[int, ...] = ()) -> tuple[int, ...]:
        return inputs.resolve(Input("images", "tensor(float)", sizes), batch=4, shape=shape, path="x.onnx")

    assert resolve("batch", 3, 8, 8) == (4, 3, 8, 8)
    assert resolve("batch", 3, "h", None, shape=(3, 8, 9)) == (4, 3, 8, 9)
    assert resolve() == ()
    for sizes, shape, problem in (
        ([1, 3, 8, 8], (), "fixed batch size.*--batch 1"),
        (["batch", 3, "h", "w"], (), "besides the batch are open.*3xhxw.*--shape 3x224x224"),
        (["batch", 3, 8, 8], (1, 8, 8), "another size.*--shape 1x8x8.*3x8x8"),
        (["batch", 3, 8, 8], (8, 8), "number of dimensions"),
    ):
        with pytest.raises(Refusal) as caught:
            resolve(*sizes, shape=shape)
        refusal = UsageError(caught.value.what, **caught.value.details)
        assert re.search(problem, str(refusal))
        assert "x.onnx, input images" in str(refusal)


def test_declared_inputs_are_those_of_onnx_runtime(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    kinds = {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT16, "c": TensorProto.INT64, "d": TensorProto.BOOL}
    shapes = {"a": ["batch", 3, None, 8], "b": [2], "c": [], "d": [None, "n"]}
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in [*kinds, "w"]]
    values = [helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in kinds.items()]
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    values.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    outputs = [helper.make_tensor_value_info(f"{name}_out", kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "g", values, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "g.onnx")
    session = runtime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    expected = [Input(node.name, node.type, tuple(node.shape)) for node in session.get_inputs()]
    assert list(declared_inputs(model)) == expected
    model.graph.input[0].type.tensor_type.elem_type = 99  # no such type
    assert declared_inputs(model)[0].type == "tensor(99)"


def test_all_models_get_the_same_input_values() -> None:
    first, again = (inputs.draw("tensor(float16)", (2, 3), key=0, where="x") for _ in range(2))
    assert first.dtype == np.float16
    assert np.array_equal(first, again)
    assert set(inputs.draw("tensor(int64)", (50,), key=0, where="x")) == {0, 1}
    with pytest.raises(Refusal, match="cannot be made up"):
        inputs.draw("tensor(string)", (1,), key=0, where="x")


# Verdicts


def verdict(low: float, value: float, high: float, **facts: object) -> str:
    return judge(Ratio(value, low, high, 0.99, 5, 40), Facts(provider="ONNX Runtime's CPU provider", **facts))[1]  # type: ignore[arg-type]


def test_a_verdict_states_the_outcome_and_the_reason() -> None:
    assert verdict(0.99, 1.0, 1.02, active=0.1) == (
        "no difference that could be measured, and one of 2.0 % would have shown: the same operations on weights of "
        "which 90.0 % are zero, and unstructured zeros save no time in ONNX Runtime's CPU provider"
    )
    assert verdict(0.5, 0.6, 0.7, flops=0.55).startswith(
        "faster: 0.600 of the control's time, 0.500 to 0.700; it has 55"
    )
    assert "too wide" in verdict(0.8, 1.0, 1.3, active=0.1)
    assert "4 nodes that only compute constants" in verdict(1.2, 1.3, 1.4, unfolded=4)
    assert "repeat it before you believe it" in verdict(1.2, 1.3, 1.4)
    assert "the same file" in verdict(0.99, 1.0, 1.01, itself=True)
    assert "no weight has the 2:4 pattern" in verdict(0.99, 1.0, 1.01, sparse_kernels=True)
    assert judge(None, Facts(provider="cpu"))[0] == "not compared"


# The command line


def test_json_is_followed_by_a_file_only_when_its_name_ends_in_json() -> None:
    assert complete_json(["a.onnx", "--json"]) == ["a.onnx", "--json", "-"]
    assert complete_json(["--json", "a.onnx"]) == ["--json", "-", "a.onnx"]
    assert complete_json(["--json", "out.json", "a.onnx"]) == ["--json", "out.json", "a.onnx"]
    assert complete_json(["--json=out", "a.onnx"]) == ["--json=out", "a.onnx"]
    assert complete_json(["--", "--json"]) == ["--", "--json"]


@pytest.mark.parametrize(
    "settings",
    [
        {"batches": (0,)},
        {"batches": ()},
        {"batches": (1, 1)},
        {"threads": 0},
        {"time_limit": 0.0},
        {"time_limit": math.nan},
        {"processes": 2},
        {"width": 0.0},
        {"shape": (3, 0, 8)},
        {"blocks": 0},
        {"burst": 0.0},
        {"warm_up": -1.0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        BenchSettings(**settings)  # type: ignore[arg-type]


def test_workers_do_not_import_torch() -> None:
    """Torch in a fresh process would take seconds, and its memory would be measured with the model's."""
    pytest.importorskip("onnxruntime")
    script = (
        "import sys, exporters.bench.worker, exporters.bench.onnx_engine, exporters.bench.libraries;"
        "print(*{'torch', 'granet', 'onnx', 'typer', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_other_benchmarks_write_the_same_json_fields(tmp_path: Path) -> None:
    from benchmarks.measure import Measurement, save

    save(tmp_path / "out.json", [Measurement("saving", {"theirs": [1.0, 1.1, 1.2], "ours": [0.5, 0.55, 0.6]})])
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["environment"]["packages"]["numpy"]
    ours = document["results"][1]
    assert (ours["benchmark"], ours["model"], ours["control"], ours["median_ms"]) == ("saving", "ours", "theirs", 550.0)
    assert ours["ratio"] == pytest.approx(0.5)
    assert ours["ratio_low"] <= 0.5 <= ours["ratio_high"]


# Clocks of the GPU, read through a fake of nvidia-ml-py


class NvmlError(Exception):
    """As ``pynvml.NVMLError``."""


def nvml(**functions: object) -> SimpleNamespace:
    """A module like pynvml, with a card at 1980 MHz and 61 degrees, throttled by heat, and busy."""

    def unsupported(*_: object) -> object:
        raise NvmlError("not supported")

    answers = {
        "nvmlDeviceGetHandleByIndex": lambda index: f"card {index}",
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"card {uuid}",
        "nvmlDeviceGetName": lambda handle: f"NVIDIA {handle}",
        "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1980, 2: 2619}[clock],
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetPowerUsage": unsupported,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x20,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80, used=30),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=4711), SimpleNamespace(pid=1)],
        "nvmlSystemGetProcessName": lambda pid: "python train.py" if pid == 4711 else unsupported(),
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13020,
        "nvmlSystemGetDriverVersion": unsupported,
        "nvmlInit": lambda: None,
        "NVMLError": NvmlError,
    }
    return SimpleNamespace(**(answers | functions))


def test_figures_of_the_gpu_are_read_and_unsupported_ones_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    gpu = Gpu.open()
    assert gpu is not None
    assert gpu.describe() == {"name": "NVIDIA card 0", "driver": None, "cuda": "13.2", "memory_bytes": 80}
    assert gpu.used_memory() == 30
    assert gpu.sample() == Sample(1980, 2619, 61, None, True)
    assert gpu.processes() == ["python train.py (4711)", "a process (1)"]
    assert any("python train.py (4711)" in warning for warning in warnings_before(gpu))


def test_samples_are_summarised_by_their_extremes() -> None:
    low, high = Sample(1500, 2619, 50, None, False), Sample(1980, None, 61, None, True)
    assert summarise([low, high]) == Clocks(2, 1500, 1980, 2619, 2619, 61, None, 1)
    assert summarise([]) is None


@pytest.mark.parametrize(("visible", "name"), [("2,3", "NVIDIA card 2"), ("GPU-ab", "NVIDIA card GPU-ab")])
def test_the_first_visible_gpu_is_read(visible: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    gpu = Gpu.open()
    assert gpu is not None
    assert gpu.describe()["name"] == name


def fail(*_: object) -> object:
    raise NvmlError


@pytest.mark.parametrize(
    ("module", "visible"),
    [
        (None, "0"),  # nvidia-ml-py is not installed
        (nvml(nvmlInit=fail), "0"),  # no driver
        (nvml(nvmlDeviceGetHandleByIndex=fail), "0"),  # no card
        (nvml(), ""),  # none may be used
        (SimpleNamespace(), "0"),  # another package of that name
    ],
)
def test_without_a_usable_gpu_there_are_no_figures(
    module: object, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert Gpu.open() is None
