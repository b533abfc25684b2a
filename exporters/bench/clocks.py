"""What the GPU's own instruments say: clocks, temperature, memory and who else computes there, through NVML.

The driver brings the library, so nothing has to be installed; without a driver there is nothing to ask, and
``Gpu.open`` says None. A figure that a card or a container does not tell is None.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_SM, _MEMORY = 1, 2
_MANY = 64


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


@dataclass(frozen=True)
class Sample:
    """A look at the card while it works."""

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: float | None
    throttled: bool | None
    """Whether heat or power, not idleness or a setting of the user's, holds the clocks down."""


@dataclass(frozen=True)
class Clocks:
    """What a series of samples comes to: the extremes, because a clock that moved is what matters."""

    samples: int
    sm_mhz_low: int | None
    sm_mhz_high: int | None
    memory_mhz_low: int | None
    memory_mhz_high: int | None
    celsius_high: int | None
    watts_high: float | None
    throttled: int
    """Samples in which heat or power held the clocks down."""


def summarise(samples: Sequence[Sample]) -> Clocks | None:
    """The extremes of at least one sample; None without any."""
    if not samples:
        return None

    def told(name: str) -> list[Any]:
        return [value for sample in samples if (value := getattr(sample, name)) is not None]

    sm, memory = told("sm_mhz"), told("memory_mhz")
    return Clocks(
        samples=len(samples),
        sm_mhz_low=min(sm, default=None),
        sm_mhz_high=max(sm, default=None),
        memory_mhz_low=min(memory, default=None),
        memory_mhz_high=max(memory, default=None),
        celsius_high=max(told("celsius"), default=None),
        watts_high=max(told("watts"), default=None),
        throttled=sum(told("throttled")),
    )


class Gpu:
    """The first GPU that this process may use."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, load: Callable[[str], Any] = ctypes.CDLL) -> Gpu | None:
        """The card, or None where NVML or the card is missing."""
        try:
            library = load(_LIBRARY)
            if library.nvmlInit_v2() != 0:
                return None
            handle = ctypes.c_void_p()
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
            if first.isdecimal():
                status = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(first)), ctypes.byref(handle))
            elif first:
                status = library.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(handle))
            else:  # set to nothing: no GPU may be used
                return None
        except (OSError, AttributeError):
            return None
        return cls(library, handle) if status == 0 else None

    def name(self) -> str | None:
        """What the card calls itself."""
        return self._text("nvmlDeviceGetName", self._handle)

    def driver(self) -> str | None:
        """The driver's version."""
        return self._text("nvmlSystemGetDriverVersion")

    def cuda(self) -> str | None:
        """The newest CUDA that the driver knows."""
        version = self._number("nvmlSystemGetCudaDriverVersion_v2", ctypes.c_int)
        return None if version is None else f"{version // 1000}.{version % 1000 // 10}"

    def total(self) -> int | None:
        """Bytes of memory."""
        memory = self._fill(_Memory(), "nvmlDeviceGetMemoryInfo", self._handle)
        return None if memory is None else int(memory.total)

    def used(self) -> int | None:
        """Bytes of memory in use, by whomever."""
        memory = self._fill(_Memory(), "nvmlDeviceGetMemoryInfo", self._handle)
        return None if memory is None else int(memory.used)

    def sample(self) -> Sample:
        """Clocks, temperature and power at this moment."""
        milliwatts = self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint, self._handle)
        reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong, self._handle)
        # Power cap 0x4, hardware slowdown 0x8, thermal 0x20 and 0x40, power brake 0x80.
        return Sample(
            sm_mhz=self._number("nvmlDeviceGetClockInfo", ctypes.c_uint, self._handle, ctypes.c_int(_SM)),
            memory_mhz=self._number("nvmlDeviceGetClockInfo", ctypes.c_uint, self._handle, ctypes.c_int(_MEMORY)),
            celsius=self._number("nvmlDeviceGetTemperature", ctypes.c_uint, self._handle, ctypes.c_int(0)),
            watts=None if milliwatts is None else milliwatts / 1000.0,
            throttled=None if reasons is None else bool(reasons & 0xEC),
        )

    def others(self) -> list[str]:
        """Processes that compute there, as name and number; ours are among them once they run."""
        count, table = ctypes.c_uint(_MANY), (_Process * _MANY)()
        function = self._function("nvmlDeviceGetComputeRunningProcesses_v3")
        if function is None or function(self._handle, ctypes.byref(count), table) != 0:
            return []
        found = []
        for process in table[: count.value]:
            text = ctypes.create_string_buffer(1024)
            named = self._function("nvmlSystemGetProcessName")
            told = named is not None and named(ctypes.c_uint(process.pid), text, ctypes.c_uint(1024)) == 0
            name = text.value.decode(errors="replace") if told else "a process"
            found.append(f"{name} ({process.pid})")
        return found

    def _function(self, name: str) -> Any:
        with suppress(AttributeError):
            return getattr(self._library, name)
        return None

    def _text(self, name: str, *arguments: Any) -> str | None:
        text, function = ctypes.create_string_buffer(256), self._function(name)
        if function is None or function(*arguments, text, ctypes.c_uint(256)) != 0:
            return None
        return text.value.decode(errors="replace")

    def _number(self, name: str, kind: Any, *arguments: Any) -> int | None:
        value = self._fill(kind(), name, *arguments)
        return None if value is None else int(value.value)

    def _fill(self, value: Any, name: str, *arguments: Any) -> Any:
        function = self._function(name)
        return value if function is not None and function(*arguments, ctypes.byref(value)) == 0 else None
