"""An ONNX file in a session of ONNX Runtime, ready to be timed. Imported by workers only."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

from exporters.bench import inputs
from exporters.bench.libraries import preload
from exporters.bench.protocol import NAMES, Input, Opened, Refusal, Spec

Run = Callable[[], object]


def open_engine(spec: Spec) -> tuple[Opened, Run]:
    """Make the session and run it once; return what that took and the function to time.

    Without ``with_copies`` inputs and outputs lie on the device before the clock starts, and every call reads and
    writes the same memory; with it a call starts and ends in NumPy arrays. A call returns when its results are there.

    Raises:
        Refusal: the file cannot be opened or run, or not on the provider that was asked for, with every node.
        MemoryError: it does not fit.
    """
    begin = time.perf_counter()
    session = _session(spec, strict=True)
    create_s = time.perf_counter() - begin
    arrays = _arrays(spec)
    begin = time.perf_counter()
    run = _copying(session, arrays, spec.path) if spec.with_copies else _bound(session, arrays, spec)
    first_run_s = time.perf_counter() - begin
    name = NAMES[spec.provider]
    options = {key: str(value) for key, value in session.get_provider_options().get(name, {}).items()}
    return Opened(create_s, first_run_s, session.get_providers()[0], options), run


def placement(spec: Spec, scratch: Path) -> dict[str, Any]:
    """Profile one run; return the session's providers and how many nodes of each operator ran on each of them.

    A session of its own, because profiling takes time, and with the CPU allowed, so that what would run there can be
    named. CUDA graphs, which hide nodes from the profiler, have to be off; placement does not depend on them.
    """
    session = _session(spec, profile=scratch / "profile")
    arrays = _arrays(spec)
    _first(lambda: session.run(None, arrays), spec.path)
    operators: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in arguments:
            operators[str(arguments["provider"])][str(arguments.get("op_name", event["name"]))] += 1
    return {"session": session.get_providers(), "operators": operators}


def optimise(spec: Spec, target: Path) -> None:
    """Write the graph with constants folded and its sizes fixed to ``target``, and large tensors beside it."""
    options = _options(spec)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{target.name}.data")
    _make(spec.path, options, "cpu", {})


def is_memory(text: str) -> bool:
    """Return whether the message of an error says that memory ran out."""
    signs = ("out of memory", "bad_alloc", "failed to allocate", "can't allocate memory", "unable to allocate")
    return any(sign in text.lower() for sign in signs)


def _session(spec: Spec, *, strict: bool = False, profile: Path | None = None) -> Any:
    options = _options(spec)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if spec.provider != "cpu":
        if strict:  # else ONNX Runtime runs on the CPU whatever the provider does not take
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        preload()
    session = _make(spec.path, options, spec.provider, spec.options)
    session.disable_fallback()
    if session.get_providers()[0] != NAMES[spec.provider]:
        raise Refusal(
            "BenchmarkError",
            "ONNX Runtime did not take the provider",
            where=spec.path,
            got=", ".join(session.get_providers()),
            expected=NAMES[spec.provider],
        )
    return session


def _options(spec: Spec) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if spec.kernels is not None:
        options.register_custom_ops_library(spec.kernels)
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning would take the cores from the process whose turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for node in spec.inputs:
        for name, size in zip(node.shape, _sizes(node, spec), strict=True):
            if isinstance(name, str):  # a graph of fixed sizes is the same work for all, and CUDA graphs need it
                options.add_free_dimension_override_by_name(name, size)
    return options


def _make(path: str, options: Any, provider: str, settings: Mapping[str, str]) -> Any:
    with _refusing(path, "ONNX Runtime rejects the file"):
        return onnxruntime.InferenceSession(path, options, providers=[(NAMES[provider], dict(settings))])


@contextmanager
def _refusing(path: str, what: str) -> Iterator[None]:
    """Raise MemoryError or Refusal for ONNX Runtime's errors, a dozen classes that have only Exception in common."""
    try:
        yield
    except Exception as error:
        text = str(error).strip().removeprefix("[ONNXRuntimeError] : ") or repr(error)
        if is_memory(text) or isinstance(error, MemoryError):
            raise MemoryError(text[max(text.find("Failed to allocate"), 0) :].splitlines()[0]) from error
        if "fallback to CPU EP has been explicitly disabled" in text:
            raise Refusal("BenchmarkError", "nodes of the graph would run on the CPU", where=path) from error
        raise Refusal("ModelError", what, where=path, got=text.splitlines()[0]) from error


def _arrays(spec: Spec) -> dict[str, Any]:
    return {
        node.name: inputs.draw(node.type, _sizes(node, spec), key=key, where=f"{spec.path}, input {node.name}")
        for key, node in enumerate(spec.inputs)
    }


def _sizes(node: Input, spec: Spec) -> tuple[int, ...]:
    return inputs.resolve(node, batch=spec.batch, shape=spec.shape, path=spec.path)


def _copying(session: Any, arrays: Mapping[str, Any], path: str) -> Run:
    def run() -> object:
        return session.run(None, arrays)

    _first(run, path)
    return run


def _bound(session: Any, arrays: Mapping[str, Any], spec: Spec) -> Run:
    device = "cpu" if spec.provider == "cpu" else "cuda"
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in arrays.items()}

    def bind() -> Any:
        binding = session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    names = [node.name for node in session.get_outputs()]
    trial = bind()
    for name in names:
        trial.bind_output(name, device, 0)
    # Outputs are allocated as they come here, so a CUDA graph must not be captured yet.
    uncaptured = onnxruntime.RunOptions()
    if spec.provider != "cpu":
        uncaptured.add_run_config_entry("gpu_graph_id", "-1")
    _first(lambda: session.run_with_iobinding(trial, uncaptured), spec.path)
    # From now on at fixed addresses: nothing is allocated while the clock runs, and CUDA graphs can be replayed.
    outputs = [
        onnxruntime.OrtValue.ortvalue_from_shape_and_type(value.shape(), value.element_type(), device, 0)
        for value in trial.get_outputs()
    ]
    binding = bind()
    for name, value in zip(names, outputs, strict=True):
        binding.bind_ortvalue_output(name, value)

    def run() -> object:
        session.run_with_iobinding(binding)
        return values, outputs  # which the binding does not keep alive

    _first(run, spec.path)
    return run


def _first(run: Run, path: str) -> None:
    with _refusing(path, "ONNX Runtime could not run the file"):
        run()
