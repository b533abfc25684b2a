"""Paired measurements: candidates take turns, so that what disturbs one disturbs all; ratios carry an interval.

Measuring returns samples and the environment. Judging and printing come after, in ``report``.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Measurement:
    """Seconds of every round for each candidate; entries of one round were taken one right after the other."""

    name: str
    samples: Mapping[str, Sequence[float]]

    def median(self, candidate: str) -> float:
        """Median seconds."""
        return float(np.median(self.samples[candidate]))

    def ratio(self, candidate: str, control: str, *, level: float = 0.95) -> tuple[float, float, float]:
        """Median of the per-round ratios and its bootstrap interval."""
        ratios = np.asarray(self.samples[candidate]) / np.asarray(self.samples[control])
        draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(np.median(ratios)), float(low), float(high)


def interleaved(
    name: str, candidates: Mapping[str, Callable[[], object]], *, rounds: int = 15, warmup: int = 3
) -> Measurement:
    """Runs every candidate once a round, waiting for the device before and after each."""
    samples: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    for number in range(warmup + rounds):
        for candidate, run in candidates.items():
            synchronize()
            begin = time.perf_counter()
            run()
            synchronize()
            if number >= warmup:
                samples[candidate].append(time.perf_counter() - begin)
    return Measurement(name, samples)


def synchronize() -> None:
    """Waits until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def environment() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d"),
    }


def report(measurement: Measurement, *, control: str, limits: Mapping[str, str] | None = None) -> None:
    """Prints a table of medians and ratios to ``control``, each next to its limit."""
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
    """Writes samples and environment as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment(), "measurements": [asdict(m) for m in measurements]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
