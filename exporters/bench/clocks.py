"""Clocks, temperature, power, memory and processes of the GPU, read through NVML (``nvidia-ml-py``).

Every figure that cannot be read is None: the package, the driver or the card may be missing, and some cards and
containers hide some figures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One reading of the GPU while it works."""

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: float | None
    throttled: bool | None
    """Whether heat or a power limit lowers the clocks; idleness and the user's own settings do not count."""


@dataclass(frozen=True)
class Clocks:
    """Extremes over several samples: a clock that moved is a reason to doubt a measurement."""

    samples: int
    sm_mhz_low: int | None
    sm_mhz_high: int | None
    memory_mhz_low: int | None
    memory_mhz_high: int | None
    celsius_high: int | None
    watts_high: float | None
    throttled: int
    """Samples in which heat or a power limit lowered the clocks."""


def summarise(samples: Sequence[Sample]) -> Clocks | None:
    """Return the extremes of the samples, or None when there are none."""
    if not samples:
        return None
    known: dict[str, list[Any]] = {
        field.name: [value for sample in samples if (value := getattr(sample, field.name)) is not None]
        for field in fields(Sample)
    }
    return Clocks(
        samples=len(samples),
        sm_mhz_low=min(known["sm_mhz"], default=None),
        sm_mhz_high=max(known["sm_mhz"], default=None),
        memory_mhz_low=min(known["memory_mhz"], default=None),
        memory_mhz_high=max(known["memory_mhz"], default=None),
        celsius_high=max(known["celsius"], default=None),
        watts_high=max(known["watts"], default=None),
        throttled=sum(known["throttled"]),
    )


class Gpu:
    """The first GPU that this process may use."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @classmethod
    def open(cls) -> Gpu | None:
        """Return the GPU; None without nvidia-ml-py, a driver or a GPU, or when CUDA_VISIBLE_DEVICES allows none."""
        try:
            import pynvml

            pynvml.nvmlInit()
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
            if not first:
                return None
            by_index = first.isdecimal()
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(int(first)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(first)
            )
        except Exception:  # the package raises several unrelated classes, and a benchmark has to run without it
            return None
        return cls(pynvml, handle)

    def describe(self) -> dict[str, object]:
        """Return name, driver version, newest CUDA version that the driver supports, and bytes of memory."""
        version, memory = self._read("nvmlSystemGetCudaDriverVersion_v2"), self._on_card("nvmlDeviceGetMemoryInfo")
        return {
            "name": self._on_card("nvmlDeviceGetName"),
            "driver": self._read("nvmlSystemGetDriverVersion"),
            "cuda": None if version is None else f"{version // 1000}.{version % 1000 // 10}",
            "memory_bytes": None if memory is None else int(memory.total),
        }

    def used_memory(self) -> int | None:
        """Return bytes of memory in use, by all processes together."""
        memory = self._on_card("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def sample(self) -> Sample:
        """Read clocks, temperature and power now."""
        milliwatts = self._on_card("nvmlDeviceGetPowerUsage")
        reasons = self._on_card("nvmlDeviceGetCurrentClocksThrottleReasons")
        # Power cap 0x4, hardware slowdown 0x8, thermal 0x20 and 0x40, power brake 0x80.
        return Sample(
            sm_mhz=self._on_card("nvmlDeviceGetClockInfo", 1),  # NVML_CLOCK_SM
            memory_mhz=self._on_card("nvmlDeviceGetClockInfo", 2),  # NVML_CLOCK_MEM
            celsius=self._on_card("nvmlDeviceGetTemperature", 0),  # NVML_TEMPERATURE_GPU
            watts=None if milliwatts is None else milliwatts / 1000.0,
            throttled=None if reasons is None else bool(reasons & 0xEC),
        )

    def processes(self) -> list[str]:
        """Return the processes that compute on the GPU, each as "name (pid)"; ours are among them once they run."""
        running = self._on_card("nvmlDeviceGetComputeRunningProcesses") or []
        return [f"{self._read('nvmlSystemGetProcessName', each.pid) or 'a process'} ({each.pid})" for each in running]

    def _on_card(self, function: str, *arguments: object) -> Any:
        return self._read(function, self._handle, *arguments)

    def _read(self, function: str, *arguments: object) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except Exception:  # as in open(): a figure that is missing is no reason to stop measuring
            return None
