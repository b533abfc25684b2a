"""Proof of where a file runs: the session's providers, and the profile of one run."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from exporters.bench.process import WorkerProcess
from exporters.bench.protocol import NAMES, Input, Spec, read_inputs
from exporters.bench.work import Work
from granet.errors import BenchmarkError, ModelError

_TIME_LIMIT = 900.0


def declared(path: str) -> tuple[Input, ...]:
    """Return the inputs of an ONNX file, as ONNX Runtime reads them in a process of its own.

    Raises:
        ModelError: ONNX Runtime rejects the file.
    """
    with WorkerProcess(where=path) as worker:
        return read_inputs(worker.ask({"do": "declare", "path": path}, limit=_TIME_LIMIT)["inputs"])


def prove(spec: Spec) -> tuple[dict[str, dict[str, int]], Work]:
    """Run an ONNX file once under the profiler; return its operators, as ``check`` does, and what it computes.

    Raises:
        BenchmarkError: a node ran on another provider; its operator is named.
        ModelError: the file cannot be run.
    """
    with tempfile.TemporaryDirectory() as scratch, WorkerProcess(where=spec.path) as worker:
        answer = worker.ask({"do": "examine", "spec": asdict(spec), "scratch": scratch}, limit=_TIME_LIMIT)
    return check(answer["providers"], answer["nodes"], spec.provider, spec.path), Work(**answer["work"])


def check(
    session: Sequence[str], nodes: Sequence[Mapping[str, Any]], provider: str, path: str
) -> dict[str, dict[str, int]]:
    """Return the operators that ran, by ONNX Runtime's provider, if that is ``provider`` alone.

    Args:
        session: providers of the session, the preferred one first.
        nodes: of the profile: provider, operator, and how many.
        provider: cpu, cuda or tensorrt.
        path: of the file, for messages.

    Raises:
        BenchmarkError: something ran elsewhere.
        ModelError: there is no node at all.
    """
    expected = NAMES[provider]
    if not nodes:
        raise ModelError("the profile of a run shows no node: there is nothing to measure", where=path)
    operators: dict[str, Counter[str]] = {}
    for node in nodes:
        operators.setdefault(node["provider"], Counter())[node["op"]] += node["count"]
    elsewhere = {name: counts for name, counts in operators.items() if name != expected}
    if elsewhere or not session or session[0] != expected:
        got = "; ".join(
            f"{counts.total()} nodes on {name}: {', '.join(sorted(counts)[:8])}" for name, counts in elsewhere.items()
        )
        raise BenchmarkError(
            f"not all of the graph runs on {provider}",
            where=path,
            got=got or ", ".join(session),
            expected=f"{expected} alone",
            remedy="--provider cpu runs all of it; a time of two providers would describe neither",
        )
    return {name: dict(counts) for name, counts in operators.items()}
