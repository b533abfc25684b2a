"""What was measured, as values: the figures of each model and batch, the models themselves, and the environment.

``Report.as_json`` is what ``granet bench --json`` prints. Times are in milliseconds there and memory in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from exporters.bench.clocks import Clocks
from exporters.bench.statistics import Ratio, Summary


@dataclass(frozen=True, kw_only=True)
class Model:
    """A file that took part.

    Attributes:
        model: its label.
        path: where it lay.
        role: ``model`` or ``control``.
        origin: of a control, how it came to be one.
        sha256: of the file.
        bytes: on disk, with external data.
        inputs: name, type and shape of each, sizes left open as in the file.
        nodes: how many nodes each of ONNX Runtime's providers ran, by the profile.
        operators: provider -> operator -> nodes.
        weights: entries of the weights of convolutions and matrix products.
        active: of those, not zero.
        unfolded: nodes that compute a constant in every run.
        two_of_four: weights in the 2:4 pattern.
        remark: what could not be found out, and why.
    """

    model: str
    path: str
    role: str
    origin: str | None
    sha256: str
    bytes: int
    inputs: Sequence[Mapping[str, Any]]
    nodes: Mapping[str, int]
    operators: Mapping[str, Mapping[str, int]]
    weights: int | None
    active: int | None
    unfolded: int | None
    two_of_four: int | None
    remark: str | None = None


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One model on one batch size in one number format.

    Attributes:
        model: its label.
        control: label of its control; None for a control.
        role: ``model`` or ``control``.
        provider: where it ran: cpu, cuda, tensorrt, or ``torch cpu`` and the like.
        precision: fp32, tf32 or fp16.
        batch: images at a time.
        images_per_s: batch over the median.
        times: of single runs, in seconds.
        processes: fresh ones that it was measured in.
        ratio: to the control; None for a control, and when they could not be measured together.
        outcome: faster, slower, no difference, not compared, or control.
        verdict: that in a sentence, and why.
        create_s: seconds to make the session, median over processes.
        first_run_s: seconds of the first run, likewise.
        build_s: seconds to build an engine, when that was done for this measurement.
        warm_up_runs: runs before measuring, over all processes.
        settled: processes whose times had settled by then.
        peak_memory: bytes resident at most, the interpreter included.
        own_memory: of those, what came with the session.
        device_memory: bytes on the GPU.
        bytes: on disk.
        flops: of a run on the whole batch.
        active_flops: those whose weight is not zero.
        cuda_graph: whether runs were replayed from a CUDA graph.
        options: of the provider, as they were in force.
        clocks: of the GPU while this batch was measured, all models together.
    """

    model: str
    control: str | None
    role: str
    provider: str
    precision: str
    batch: int
    images_per_s: float
    times: Summary
    processes: int
    ratio: Ratio | None
    outcome: str
    verdict: str
    create_s: float
    first_run_s: float
    build_s: float | None
    warm_up_runs: int
    settled: int
    peak_memory: int
    own_memory: int
    device_memory: int | None
    bytes: int
    flops: float | None
    active_flops: float | None
    cuda_graph: bool
    options: Mapping[str, str]
    clocks: Clocks | None

    def as_json(self) -> dict[str, Any]:
        """One flat object. A control's ratio to itself is 1."""
        times = {f"{name}_ms": 1e3 * value for name, value in asdict(self.times).items() if name != "samples"}
        one = 1.0 if self.role == "control" else None
        found = self.ratio
        return {
            "model": self.model,
            "control": self.control,
            "role": self.role,
            "provider": self.provider,
            "precision": self.precision,
            "batch": self.batch,
            **times,
            "samples": self.times.samples,
            "processes": self.processes,
            "images_per_s": self.images_per_s,
            "ratio": found.value if found else one,
            "ratio_low": found.low if found else one,
            "ratio_high": (found.high if math.isfinite(found.high) else None) if found else one,
            "level": found.level if found else None,
            "blocks": found.blocks if found else None,
            "outcome": self.outcome,
            "verdict": self.verdict,
            "create_s": self.create_s,
            "first_run_s": self.first_run_s,
            "build_s": self.build_s,
            "warm_up_runs": self.warm_up_runs,
            "settled_processes": self.settled,
            "peak_memory_bytes": self.peak_memory,
            "session_memory_bytes": self.own_memory,
            "device_memory_bytes": self.device_memory,
            "bytes": self.bytes,
            "flops": self.flops,
            "active_flops": self.active_flops,
            "cuda_graph": self.cuda_graph,
            "provider_options": dict(self.options),
            "clocks": asdict(self.clocks) if self.clocks else None,
        }


@dataclass(frozen=True, kw_only=True)
class BenchFailure:
    """A model that could not be measured on one batch size; the others went on."""

    model: str
    provider: str
    precision: str
    batch: int
    error: str


@dataclass(frozen=True)
class Skipped:
    """Something that was not tried, and why."""

    what: str
    why: str


@dataclass(kw_only=True)
class BenchReport:
    """All of it. It grows while measuring goes on, so that an interrupted measurement has a report too."""

    environment: dict[str, Any]
    method: dict[str, Any]
    provider: str
    models: list[Model] = field(default_factory=list)
    results: list[BenchResult] = field(default_factory=list)
    failures: list[BenchFailure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {
            "environment": self.environment,
            "method": self.method,
            "provider": self.provider,
            "results": [result.as_json() for result in self.results],
            "failures": [asdict(failure) for failure in self.failures],
            "skipped": [asdict(item) for item in self.skipped],
            "models": [asdict(model) for model in self.models],
            "warnings": list(self.warnings),
            "interrupted": self.interrupted,
        }
