"""Proof of where a file runs: by the session, by the profile of a run, and by the graph that is left to run."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.bench.process import WorkerProcess
from exporters.bench.protocol import NAMES, Input, Spec, read_inputs
from exporters.bench.work import Work, measure
from granet.errors import BenchmarkError, GranetError, ModelError

_LONGEST = 900.0


@dataclass(frozen=True)
class Look:
    """What a look at a file found.

    Attributes:
        operators: provider of ONNX Runtime -> operator -> how many nodes of it ran there.
        work: what a run on the batch computes; None when that could not be found out.
        remark: why not.
    """

    operators: Mapping[str, Mapping[str, int]]
    work: Work | None
    remark: str | None

    @property
    def nodes(self) -> dict[str, int]:
        """How many nodes each provider ran."""
        return {name: sum(counts.values()) for name, counts in self.operators.items()}


def declared(path: Path, label: str) -> tuple[Input, ...]:
    """The inputs of a file, read by ONNX Runtime in a process of its own.

    Raises:
        ModelError: ONNX Runtime rejects the file.
    """
    with WorkerProcess(where=label) as worker:
        return read_inputs(worker.ask({"do": "declare", "path": str(path)}, limit=_LONGEST)["inputs"])


def prove(spec: Spec, label: str, surroundings: Mapping[str, str]) -> Look:
    """Runs the file once under the profiler, and makes sure that every node was where it should be.

    Raises:
        BenchmarkError: a node ran elsewhere; the operators are named.
        ModelError: the file cannot be run.
    """
    with tempfile.TemporaryDirectory() as folder, WorkerProcess(surroundings=surroundings, where=label) as worker:
        question = {"do": "examine", "spec": spec.plain(), "scratch": folder}
        answer = worker.ask(question, limit=_LONGEST)
        operators = check(answer["providers"], answer["nodes"], spec.provider, label)
        try:
            return Look(operators, measure(Path(folder) / "optimised.onnx"), None)
        except (GranetError, ValueError, RuntimeError) as error:  # the graph is for figures beside the measurement
            return Look(operators, None, f"FLOPs are not known: {str(error).splitlines()[0]}")


def check(
    session: Sequence[str], nodes: Sequence[Mapping[str, Any]], provider: str, label: str
) -> dict[str, dict[str, int]]:
    """The operators that each provider ran, if that is one provider and the right one.

    Args:
        session: what ``get_providers`` of the session says.
        nodes: of the profile: provider, operator, and how often.
        provider: ours, that was asked for.
        label: of the file, for messages.

    Raises:
        BenchmarkError: it is not.
        ModelError: there is no node at all.
    """
    expected = NAMES[provider]
    if not nodes:
        raise ModelError("the profile of a run shows no node: there is nothing to measure", where=label)
    operators: dict[str, Counter[str]] = {}
    for node in nodes:
        operators.setdefault(node["provider"], Counter())[node["op"]] += node["count"]
    elsewhere = {name: counts for name, counts in operators.items() if name != expected}
    if elsewhere or not session or session[0] != expected:
        told = "; ".join(
            f"{counts.total()} nodes on {name}: {', '.join(sorted(counts)[:8])}" for name, counts in elsewhere.items()
        )
        raise BenchmarkError(
            f"not all of the graph runs on {provider}",
            where=label,
            got=told or ", ".join(session),
            expected=f"{expected} alone",
            remedy="a measurement of both would be one of neither; --provider cpu runs it all",
        )
    return {name: dict(counts) for name, counts in operators.items()}
