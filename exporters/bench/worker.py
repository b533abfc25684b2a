"""A process that owns one session, answers questions about it, and ends with the process that started it.

Started as ``python -m exporters.bench.worker``. Questions come on standard input, answers go to standard output, and
whatever libraries print there goes to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporters.bench.protocol import Refusal, Spec, write

Question = Mapping[str, Any]


class Worker:
    """The session of this process, if one is open."""

    def __init__(self) -> None:
        self._run: Callable[[], object] | None = None
        self._before = 0

    def answer(self, question: Question) -> dict[str, Any]:
        """Return the answer, or ``error`` and ``kind`` where there is none."""
        methods = {
            "probe": self._probe,
            "examine": self._examine,
            "open": self._open,
            "burst": self._burst,
            "memory": self._memory,
        }
        try:
            return methods[question["do"]](question)
        except MemoryError as error:
            return {"error": str(error) or "out of memory", "kind": "memory"}
        except Refusal as error:
            return {"error": error.what, "kind": error.kind, "details": error.details}
        except Exception as error:  # the measuring process decides what to do about it
            complete = hasattr(error, "what")  # an error of granet's own
            kind = "memory" if _is_memory(error) else "other"
            return {"error": str(error) if complete else f"{type(error).__name__}: {error}", "kind": kind}

    def _probe(self, question: Question) -> dict[str, Any]:
        """Return the libraries that a provider lacks, and the versions of those that ONNX Runtime uses."""
        from exporters.bench import libraries

        return {"missing": libraries.missing(question["provider"]), "versions": libraries.versions()}

    def _examine(self, question: Question) -> dict[str, Any]:
        """Return where the nodes of an ONNX file run, and what it computes."""
        from exporters.bench import onnx_engine, work

        spec = prepare(question["spec"])
        scratch = Path(question["scratch"])
        found = onnx_engine.placement(spec, scratch)
        target = scratch / "optimised.onnx"
        onnx_engine.optimise(spec, target)
        try:
            computed = asdict(work.measure(target))
        except Exception as error:  # of many classes; a file is measured all the same
            computed = {"remark": f"FLOPs are not known: {(str(error) or type(error).__name__).splitlines()[0]}"}
        return {**found, "work": computed}

    def _open(self, question: Question) -> dict[str, Any]:
        """Make the session, or the network, and run it once."""
        spec = prepare(question["spec"])
        if spec.engine == "torch":
            from exporters.bench.torch_engine import open_engine
        else:
            from exporters.bench.onnx_engine import open_engine
        self._before = _status("VmRSS")
        opened, self._run = open_engine(spec)
        gc.collect()
        gc.freeze()
        return asdict(opened)

    def _burst(self, question: Question) -> dict[str, Any]:
        """Return the nanoseconds of each of ``runs`` runs, after ``drop`` runs that do not count."""
        run = self._run
        if run is None:
            raise RuntimeError("nothing is open")
        clock, times = time.perf_counter_ns, []
        gc.disable()
        for _ in range(question["drop"]):
            run()
        for _ in range(question["runs"]):
            begin = clock()
            run()
            times.append(clock() - begin)
        gc.enable()
        return {"times": times}

    def _memory(self, _: Question) -> dict[str, Any]:
        """Return the bytes resident at the peak, and before the session was made."""
        return {"peak": _status("VmHWM"), "before": self._before}


def _status(field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, but for macOS
    return peak if sys.platform == "darwin" else 1024 * peak


def prepare(values: Mapping[str, Any]) -> Spec:
    """Set the environment variables and memory limit that the spec needs, and return the spec."""
    spec = Spec.read(values)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if spec.provider == "tensorrt" and spec.precision == "fp32":  # TensorRT uses TF32 otherwise
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    if spec.memory is not None:  # a larger allocation fails here, before the system kills some process for it
        import resource

        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (spec.memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    return spec


def _is_memory(error: Exception) -> bool:
    from exporters.bench.onnx_engine import is_memory

    return "OutOfMemory" in type(error).__name__ or is_memory(str(error))


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent dies, and first of all when memory runs out."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Answer questions until standard input ends."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            write(out, worker.answer(json.loads(line)))
        except BrokenPipeError:
            break
    os._exit(0)  # libraries that fail while they are unloaded must not change the exit code


if __name__ == "__main__":
    main()
