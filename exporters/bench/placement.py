"""Proof of where a file runs: the session's providers, and the profile of one run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from exporters.bench.process import WorkerProcess
from exporters.bench.protocol import NAMES, Spec
from exporters.bench.work import Work
from granet.errors import BenchmarkError, ModelError

_TIME_LIMIT = 900.0

Operators = Mapping[str, Mapping[str, int]]
"""Provider of ONNX Runtime -> operator -> nodes."""


def prove(spec: Spec) -> tuple[Operators, Work]:
    """Run an ONNX file once under the profiler; return the nodes that ran, and what they compute.

    Raises:
        BenchmarkError: a node ran on another provider; its operator is named.
        ModelError: the file cannot be run.
    """
    with tempfile.TemporaryDirectory() as scratch, WorkerProcess(where=spec.path) as worker:
        answer = worker.ask({"do": "examine", "spec": asdict(spec), "scratch": scratch}, limit=_TIME_LIMIT)
    check(answer["session"], answer["operators"], spec.provider, spec.path)
    return answer["operators"], Work(**answer["work"])


def check(session: Sequence[str], operators: Operators, provider: str, path: str) -> None:
    """Check that everything ran on ``provider``, by the session's providers, the preferred one first, and the profile.

    Raises:
        BenchmarkError: something ran elsewhere.
        ModelError: there is no node at all.
    """
    expected = NAMES[provider]
    if not operators:
        raise ModelError("the profile of a run shows no node: there is nothing to measure", where=path)
    elsewhere = {name: counts for name, counts in operators.items() if name != expected}
    if elsewhere or not session or session[0] != expected:
        got = "; ".join(
            f"{sum(counts.values())} nodes on {name}: {', '.join(sorted(counts)[:8])}"
            for name, counts in elsewhere.items()
        )
        raise BenchmarkError(
            f"not all of the graph runs on {provider}",
            where=path,
            got=got or ", ".join(session),
            expected=f"{expected} alone",
            remedy="--provider cpu runs all of it; a time of two providers would describe neither",
        )
