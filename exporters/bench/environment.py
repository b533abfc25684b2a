"""The environment that figures depend on: machine, system and versions."""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from granet.runs.machine import processor

PACKAGES = ("granet", "torch", "numpy", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt")


def environment(**more: object) -> dict[str, object]:
    """Return machine, system, versions of installed packages, and ``more``, as plain values."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": processor(),
        "cores": physical_cores(),
        "logical_cores": usable_cores(),
        "memory_bytes": _meminfo("MemTotal"),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load": load(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        **more,
    }


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def load() -> float | None:
    """Return how many threads wanted to compute over the last minute, ours included."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def usable_cores() -> int:
    """Return the number of logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Return the number of physical cores among them: two threads of one core share its arithmetic units."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if not allowed:
        return os.cpu_count() or 1
    topology = Path("/sys/devices/system/cpu")
    siblings = {_read(topology / f"cpu{n}/topology/thread_siblings_list") or str(n) for n in allowed}
    return len(siblings)


def available_memory() -> int | None:
    """Return bytes that can be allocated without swapping; None where the system does not say."""
    return _meminfo("MemAvailable")


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
