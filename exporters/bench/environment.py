"""What figures depend on: machine, system and versions. Only the standard library is needed."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

PACKAGES = ("granet", "torch", "numpy", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt")


def environment(**more: object) -> dict[str, object]:
    """Machine, system, versions of what is installed, and ``more``, as plain values."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": cpu_model(),
        "cores": physical_cores(),
        "logical_cores": usable_cores(),
        "memory_bytes": _memory(),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load": load(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version(name)) is not None},
        **more,
    }


def version(package: str) -> str | None:
    """The version of an installed package, None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def load() -> float | None:
    """How many threads wanted to compute over the last minute, ours included."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Of those the ones that are cores of their own: two threads of one core share what computes."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if not allowed:
        return os.cpu_count() or 1
    topology = Path("/sys/devices/system/cpu")
    siblings = {_read(topology / f"cpu{n}/topology/thread_siblings_list") or str(n) for n in allowed}
    return len(siblings)


def cpu_model() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_memory() -> int | None:
    """Bytes that could be taken without driving anything out; None where the system does not say."""
    return _meminfo("MemAvailable")


def _memory() -> int | None:
    return _meminfo("MemTotal")


def _meminfo(field: str) -> int | None:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding=sys.getfilesystemencoding()).strip()
    except (OSError, ValueError):
        return None
