"""A worker process: started, asked with a time limit, and killed when it is closed."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import exporters
from exporters.bench.protocol import Opened, Spec, write
from granet.errors import BenchmarkError, GranetError, ModelError, UsageError

_LONGEST_ANSWER = 64_000_000


class DoesNotFitError(BenchmarkError):
    """The batch needs more memory than there is; smaller ones may fit."""


class WorkerProcess:
    """A process that owns one session; a context manager that kills it on leaving. ``where`` is for messages."""

    def __init__(self, *, where: str = "worker") -> None:
        self.where = where
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        root = str(Path(exporters.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            # -P: do not import a file of the present folder that is named like a library.
            [sys.executable, "-P", "-m", "exporters.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # the terminal's Ctrl-C does not reach it
        )
        self._questions, answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self._answers = answers.fileno()
        os.set_blocking(self._answers, False)
        self._rest = b""

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def open(self, spec: Spec, *, limit: float) -> Opened:
        """Make the session and run it once, within ``limit`` seconds.

        Raises:
            DoesNotFitError: there is not enough memory.
            GranetError: any other failure, the process's death and silence included.
        """
        return Opened(**self.ask({"do": "open", "spec": asdict(spec)}, limit=limit))

    def burst(self, runs: int, *, drop: int, limit: float) -> list[float]:
        """Return the seconds of each of ``runs`` runs, after ``drop`` runs that do not count. Raises as ``open``."""
        answer = self.ask({"do": "burst", "runs": runs, "drop": drop}, limit=limit)
        times = [float(nanoseconds) / 1e9 for nanoseconds in answer["times"]]
        if len(times) != runs or not all(seconds > 0 for seconds in times):
            raise BenchmarkError("the clock did not move during a run", where=self.where)
        return times

    def memory(self) -> tuple[int, int]:
        """Return the bytes resident at the peak, and before the session was made. Raises as ``open``."""
        answer = self.ask({"do": "memory"}, limit=60.0)
        return int(answer["peak"]), int(answer["before"])

    def ask(self, question: Mapping[str, Any], *, limit: float) -> dict[str, Any]:
        """Return the answer to any question. Raises as ``open``."""
        try:
            write(self._questions, question)
        except OSError as error:
            raise self._dead() from error
        answer = json.loads(self._line(limit))
        if "error" in answer:
            raise self._translated(answer)
        return dict(answer)

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(OSError):  # a pipe whose reader is gone
                    stream.close()

    def _line(self, limit: float) -> bytes:
        end = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise BenchmarkError("no answer in time", where=self.where, expected=f"within {limit:.0f} s")
                data = os.read(self._answers, 1 << 20)
                if not data:
                    raise self._dead()
                self._rest += data
                if len(self._rest) > _LONGEST_ANSWER:
                    raise BenchmarkError("the answer is too long", where=self.where)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _dead(self) -> GranetError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return DoesNotFitError("the process was killed, most likely because memory ran out", where=self.where)
        self._errors.seek(0)
        last = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return BenchmarkError(
            "the process died while it measured", where=self.where, got="; ".join([reason, *last[-1:]])
        )

    def _translated(self, answer: Mapping[str, Any]) -> GranetError:
        kind, text = str(answer.get("kind")), str(answer["error"])
        if kind == "memory":
            return DoesNotFitError("out of memory", where=self.where, got=text)
        known = {error.__name__: error for error in (UsageError, ModelError)}.get(kind, BenchmarkError)
        return known(text, **{"where": self.where, **answer.get("details", {})})
