"""Paired measurements within one process: candidates take turns, so that what disturbs one disturbs all.

Statistics and the description of the machine are those of ``granet bench``, which measures across processes. Measuring
returns samples and the environment; judging and printing come after, in ``report``.

Every benchmark writes the same kind of JSON, as ``granet bench`` does: ``environment``, and ``results``, a list of flat
objects. Those of a ``Measurement`` have ``benchmark``, ``model``, ``control``, ``median_ms`` and the other quantiles,
``ratio``, ``ratio_low``, ``ratio_high`` and ``level``, and in ``samples_s`` what they were computed from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.bench import statistics
from exporters.bench.environment import environment as machine

LEVEL = 0.95
"""These intervals stand next to limits and a person looks at each; ``granet bench`` has many and takes 0.99."""


@dataclass(frozen=True)
class Measurement:
    """What every round gave for each candidate; entries of one round were taken one right after the other.

    Attributes:
        name: what was measured.
        samples: seconds, or ``unit``, by candidate.
        control: candidate that the others are compared with; the first one if not given.
        unit: of the samples.
    """

    name: str
    samples: Mapping[str, Sequence[float]]
    control: str | None = None
    unit: str = "s"

    def median(self, candidate: str) -> float:
        """Median seconds."""
        return float(np.median(self.samples[candidate]))

    def ratio(self, candidate: str, control: str | None = None, *, level: float = LEVEL) -> tuple[float, float, float]:
        """Median of the per-round ratios and its bootstrap interval."""
        base = self.samples[control or self.against]
        logs = [statistics.block([mine], [other]) for mine, other in zip(self.samples[candidate], base, strict=True)]
        found = statistics.ratio([logs], level=level)
        return found.value, found.low, found.high

    @property
    def against(self) -> str:
        """The control."""
        return self.control or next(iter(self.samples))

    def results(self) -> list[dict[str, Any]]:
        """A row for each candidate."""
        rows = []
        suffix, scale = ("_ms", 1e3) if self.unit == "s" else (f"_{self.unit}", 1.0)
        for candidate, samples in self.samples.items():
            summary = asdict(statistics.summarise(samples))
            count = summary.pop("samples")
            ratio, low, high = self.ratio(candidate)
            rows.append(
                {
                    "benchmark": self.name,
                    "model": candidate,
                    "control": self.against,
                    **{f"{key}{suffix}": scale * value for key, value in summary.items()},
                    "samples": count,
                    "ratio": ratio,
                    "ratio_low": low,
                    "ratio_high": high if np.isfinite(high) else None,
                    "level": LEVEL,
                    f"samples_{self.unit}": list(samples),
                }
            )
        return rows


def interleaved(
    name: str,
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    warmup: int = 3,
    control: str | None = None,
) -> Measurement:
    """Runs every candidate once a round, in reverse in every second one, waiting for the device before and after."""
    samples: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    for number in range(warmup + rounds):
        turn = list(candidates.items())
        for candidate, run in turn if number % 2 else reversed(turn):
            synchronize()
            begin = time.perf_counter()
            run()
            synchronize()
            if number >= warmup:
                samples[candidate].append(time.perf_counter() - begin)
    return Measurement(name, samples, control)


def synchronize() -> None:
    """Waits until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def environment() -> dict[str, object]:
    """What the figures depend on."""
    return machine(
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        threads=torch.get_num_threads(),
        cuda=torch.version.cuda,
    )


def heading() -> str:
    """The most of that in a line."""
    found = environment()
    device = found["cpu"] if found["device"] == "CPU" else found["device"]
    place = f"{device}, {found['threads']} of {found['logical_cores']} cores, load {found['load']}"
    return f"{place}, torch {torch.__version__}, Python {found['python']}, {found['date']}"


def report(measurement: Measurement, *, control: str | None = None, limits: Mapping[str, str] | None = None) -> None:
    """Prints a table of medians and ratios to the control, each next to its limit."""
    limits = limits or {}
    print(f"\n{measurement.name}")
    print(f"  {'':32} {'median ms':>10}  {'ratio':>7}  {'95 % interval':>17}  limit")
    for candidate in measurement.samples:
        ratio, low, high = measurement.ratio(candidate, control)
        print(
            f"  {candidate:32} {1e3 * measurement.median(candidate):10.2f}  {ratio:7.2f}  "
            f"{f'{low:.2f} to {high:.2f}':>17}  {limits.get(candidate, '')}"
        )


def save(path: Path, measurements: Sequence[Measurement]) -> None:
    """Writes the results of ``measurements`` and the environment as JSON."""
    write(path, [row for measurement in measurements for row in measurement.results()])


def write(path: Path, results: Sequence[Mapping[str, Any]], **more: object) -> None:
    """Writes flat ``results``, the environment, and ``more`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment(), **more, "results": list(results)}
    path.write_text(json.dumps(document, indent=1) + "\n")
