"""Settings of a measurement, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporters.bench import providers
from exporters.bench.environment import physical_cores
from granet.errors import UsageError


def cache_folder() -> Path:
    """Return the folder where TensorRT's engines are kept from one measurement to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "granet" / "tensorrt"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings of a measurement.

    Attributes:
        provider: cpu, cuda, tensorrt or auto.
        batches: images at a time, each measured by itself.
        precisions: number formats to compute in; empty for the provider's first.
        shape: sizes of an image where the files leave them open.
        with_copies: count the way from and to NumPy arrays too.
        cuda_graph: capture runs where that is possible.
        threads: that compute within an operator; on the CPU the cores, if not given.
        time_limit: seconds for each batch size and precision; what is left of it after ``processes`` goes into more.
        processes: fresh processes of each model, at least, whatever the time; what an interval rests on.
        width: half-width of the interval, as a share of the ratio, at which it is narrow enough.
        blocks: turns of all models within a process.
        burst: seconds that one turn of one model takes, at least one run.
        warm_up: seconds for which a fresh process is warmed up, at least; it is longer until times settle.
        options: of ONNX Runtime's provider besides those that are always set.
        cache: folder of TensorRT's engines.
        seed: of the order of turns.
    """

    provider: str = "auto"
    batches: tuple[int, ...] = (1,)
    precisions: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    with_copies: bool = False
    cuda_graph: bool = True
    threads: int = field(default_factory=physical_cores)
    time_limit: float = 60.0
    processes: int = 5
    width: float = 0.01
    blocks: int = 8
    burst: float = 0.05
    warm_up: float = 0.25
    options: Mapping[str, str] = field(default_factory=dict)
    cache: Path = field(default_factory=cache_folder)
    seed: int = 0

    def __post_init__(self) -> None:
        providers.check_name(self.provider)
        once = len(set(self.batches)) == len(self.batches) > 0
        rules = (
            ("--batch", self.batches, once and min(self.batches) >= 1, "sizes of at least 1, each once"),
            ("--shape", self.shape, all(size >= 1 for size in self.shape), "sizes of at least 1"),
            ("--threads", self.threads, self.threads >= 1, "at least 1"),
            ("--time-limit", self.time_limit, 0.0 < self.time_limit < 1e6, "seconds, above 0"),
            ("--processes", self.processes, self.processes >= 3, "at least 3, because an interval needs several"),
            ("--width", self.width, 0.0 < self.width < 1.0, "a share of the ratio, above 0 and below 1"),
            ("blocks", self.blocks, self.blocks >= 1, "at least 1"),
            ("burst", self.burst, self.burst > 0.0, "seconds, above 0"),
            ("warm_up", self.warm_up, self.warm_up >= 0.0, "seconds, at least 0"),
        )
        for where, got, valid, expected in rules:
            if not valid:
                raise UsageError("this setting is out of range", where=where, got=got, expected=expected)
