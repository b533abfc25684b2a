"""The results of a measurement as values; ``BenchReport.as_json`` is what ``granet bench --json`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from exporters import onnx_files
from exporters.bench.clocks import Clocks
from exporters.bench.protocol import Input
from exporters.bench.statistics import Ratio, Summary
from exporters.bench.work import Work

Role = Literal["model", "control"]


@dataclass(kw_only=True)
class Model:
    """An ONNX file that is measured, and what examining it finds out.

    Attributes:
        label: its name in tables, unique in a measurement.
        path: of the file.
        control: label of the model that it is compared with; None for a control.
        origin: how a control came to be one.
        sha256: of the file.
        bytes: size of the file, with the tensors that lie beside it.
        inputs: as the file declares them.
        islands: how many islands of sparse layers the file has, which the sparse kernels can run.
        operators: provider of ONNX Runtime -> operator -> nodes that it ran, by the profile.
        work: what a run on the smallest batch computes.
    """

    label: str
    path: Path
    control: str | None
    origin: str | None = None
    sha256: str = ""
    bytes: int = 0
    islands: int = 0
    inputs: tuple[Input, ...] = ()
    operators: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    work: Work = field(default_factory=Work)

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes that each of ONNX Runtime's providers ran."""
        return {provider: sum(counts.values()) for provider, counts in self.operators.items()}

    def as_json(self) -> dict[str, Any]:
        """Return a flat object."""
        work = asdict(self.work)
        return {
            "model": self.label,
            "path": str(self.path),
            "role": "control" if self.control is None else "model",
            "origin": self.origin,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "islands": self.islands,
            "inputs": [asdict(node) for node in self.inputs],
            "nodes": self.nodes,
            "operators": self.operators,
            **{name: work[name] for name in ("weights", "active", "unfolded", "two_of_four", "remark")},
        }


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One model at one batch size in one number format; docs/benchmarking.md describes every field.

    Attributes:
        times: of single runs, in seconds.
        ratio: to the control; None for a control, and when the two could not be measured together.
        build_s: seconds to build an engine, None unless that was done for this measurement.
        settled_processes: those whose times had settled when warm-up ended.
        session_memory_bytes: the part of the peak that came with the session.
        clocks: of the GPU while this batch was measured, all models together.
    """

    model: str
    control: str | None
    role: Role
    provider: str
    precision: str
    batch: int
    times: Summary
    processes: int
    images_per_s: float
    ratio: Ratio | None
    outcome: str
    verdict: str
    create_s: float
    first_run_s: float
    build_s: float | None
    warm_up_runs: int
    settled_processes: int
    peak_memory_bytes: int
    session_memory_bytes: int
    device_memory_bytes: int | None
    bytes: int
    flops: float | None
    active_flops: float | None
    cuda_graph: bool
    provider_options: Mapping[str, str]
    clocks: Clocks | None

    def as_json(self) -> dict[str, Any]:
        """Return a flat object, times in milliseconds. A control's ratio to itself is 1."""
        row: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "times":
                samples = value.pop("samples")
                row |= {f"{key}_ms": 1e3 * seconds for key, seconds in value.items()} | {"samples": samples}
            elif name == "ratio":
                row |= self._ratio()
            else:
                row[name] = value
        return row

    def _ratio(self) -> dict[str, float | None]:
        found = self.ratio
        if found is None:
            one = 1.0 if self.role == "control" else None
            return {"ratio": one, "ratio_low": one, "ratio_high": one, "level": None, "blocks": None}
        high = found.high if math.isfinite(found.high) else None
        bounds = {"ratio": found.value, "ratio_low": found.low, "ratio_high": high}
        return {**bounds, "level": found.level, "blocks": found.blocks}


@dataclass(frozen=True, kw_only=True)
class BenchFailure:
    """A model that could not be measured at one batch size."""

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
    """The whole measurement. It grows while measuring, so that an interrupted measurement has a report too."""

    environment: dict[str, Any]
    method: dict[str, Any]
    provider: str
    results: list[BenchResult] = field(default_factory=list)
    failures: list[BenchFailure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, strings and numbers."""
        return {
            **vars(self),
            "results": [result.as_json() for result in self.results],
            "failures": [asdict(failure) for failure in self.failures],
            "skipped": [asdict(item) for item in self.skipped],
            "models": [model.as_json() for model in self.models],
        }


def file_size(path: Path) -> int:
    """Return the bytes of a model or checkpoint on disk, external data included."""
    return onnx_files.size(path) if path.suffix == ".onnx" else path.stat().st_size
