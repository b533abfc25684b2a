"""How much memory something takes while it is done, beyond what there is before. Linux, or a GPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch


def peak(run: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """Does ``run``: bytes at the peak beyond those before, and bytes that are still there after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = run()
        torch.cuda.synchronize()
        found = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
        del kept
        return found
    _trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
    before = resident("VmRSS")
    kept = run()
    most = resident("VmHWM")
    _trim()
    left = resident("VmRSS")
    del kept
    return most - before, left - before


def resident(field: str) -> int:
    """A line of what Linux tells of this process, in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"this system does not tell {field}")
    return 1024 * int(match[1])


def _trim() -> None:
    """Gives back what was freed; otherwise it would not count when it is taken again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
