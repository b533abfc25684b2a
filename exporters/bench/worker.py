"""A fresh process that owns one session, runs it when told, and ends with whoever started it.

Started as ``python -m exporters.bench.worker``. Questions come on standard input, answers go to standard output, and
whatever libraries print there goes to standard error. It never measures unless it has the turn.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporters.bench.protocol import Spec, write
from exporters.bench.worker_errors import Refusal

Question = Mapping[str, Any]


class Worker:
    """Answers one question at a time."""

    def __init__(self) -> None:
        self._run: Callable[[], object] | None = None
        self._before = 0

    def answer(self, question: Question) -> dict[str, Any]:
        """The answer, or in ``error`` and ``kind`` why there is none."""
        methods = {
            "probe": self._probe,
            "declare": self._declare,
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
            return error.plain()
        except Exception as error:  # whatever it is, it has to be told: nobody sees this process
            told = getattr(error, "what", None) and str(error)  # one of granet's own says all by itself
            kind = "memory" if _is_memory(error) else "other"
            return {"error": told or f"{type(error).__name__}: {error}", "kind": kind}

    def _probe(self, question: Question) -> dict[str, Any]:
        """What providers lack, and the versions below ONNX Runtime."""
        from exporters.bench import libraries

        lacking = {name: libraries.missing(name) for name in question["providers"]}
        return {"missing": lacking, "versions": libraries.versions()}

    def _declare(self, question: Question) -> dict[str, Any]:
        """The inputs of an ONNX file."""
        from exporters.bench import onnx_engine

        return {"inputs": [asdict(node) for node in onnx_engine.declare(question["path"])]}

    def _examine(self, question: Question) -> dict[str, Any]:
        """Where the nodes of an ONNX file run, and what it computes."""
        from exporters.bench import onnx_engine, work

        spec = Spec.read(question["spec"])
        _limit(spec.memory)
        folder = Path(question["scratch"])
        place = onnx_engine.placement(spec, folder)
        target = folder / "optimised.onnx"
        onnx_engine.optimise(spec, target)
        return {**place, "work": asdict(work.measure(target))}

    def _open(self, question: Question) -> dict[str, Any]:
        """Makes the session, or the network, and runs it once."""
        spec = Spec.read(question["spec"])
        _limit(spec.memory)
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
        """Nanoseconds of each of ``runs`` runs, after ``drop`` that are not told."""
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
        """Bytes resident at the peak, and before the session was made."""
        return {"peak": _status("VmHWM"), "before": self._before}


def _status(field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, but for macOS
    return peak if sys.platform == "darwin" else 1024 * peak


def _limit(memory: int | None) -> None:
    """Makes an allocation beyond ``memory`` fail here, before the system has to choose a victim."""
    if memory is None:
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _is_memory(error: Exception) -> bool:
    from exporters.bench.onnx_engine import is_memory

    return "OutOfMemory" in type(error).__name__ or is_memory(str(error))


def _end_with_parent() -> None:
    """Asks the system to end this process with its parent, whatever that one dies of; and to take it first."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _questions(stream: io.TextIOBase) -> Iterator[Question]:
    for line in stream:
        yield json.loads(line)


def main() -> None:
    """Answers until the questions end."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for question in _questions(sys.stdin):  # type: ignore[arg-type]
        try:
            write(out, worker.answer(question))
        except BrokenPipeError:
            break
    os._exit(0)  # libraries that fail while they are unloaded have nothing to say


if __name__ == "__main__":
    main()
