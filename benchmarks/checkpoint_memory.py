"""How much memory saving, loading and looking take, each measured in a process of its own. Needs Linux.

    python -m benchmarks.checkpoint_memory [--json FILE]

The peak of the resident set while something is done, less what was resident before, is compared with what it may be:
what comes of it, the file (the memory map of a file that is read counts as resident), and one copy of the largest
tensor. The state is that of a ResNet-50 in training with SGD at density 0.1.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import states
from benchmarks.measure import write
from granet import checkpoint
from granet.checkpoint import Checkpoint

TASKS = ("save", "save channels_last", "load", "load_weights", "load_outline", "verify")
SLACK = 8e6
"""Blocks that are worked on at a time, the header, and Python itself."""


def measure_here(task: str, path: Path) -> dict[str, float]:
    """Does one thing in this process: bytes at the peak beyond what was there before, and bytes that came of it."""
    torch.set_num_threads(1)
    target = path.with_name("copy.safetensors")
    state = checkpoint.load(path)
    if task == "save channels_last":
        state = states.channels_last(state)
    checkpoint.save(target, state)  # the first time imports and allocates what stays
    checkpoint.verify(target)
    if not task.startswith("save"):
        del state
    tasks: dict[str, Callable[[], object]] = {
        "save": lambda: checkpoint.save(target, state),
        "save channels_last": lambda: checkpoint.save(target, state),
        "load": lambda: checkpoint.load(target),
        "load_weights": lambda: checkpoint.load_weights(target),
        "load_outline": lambda: checkpoint.load_outline(target),
        "verify": lambda: checkpoint.verify(target),
    }
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
    before = _status("VmRSS")
    result = tasks[task]()
    return {"peak": _status("VmHWM") - before, "result": states.nbytes(result), "file": target.stat().st_size}


def allowed(task: str, measured: dict[str, float], largest: int) -> float:
    """The most bytes that a task may take."""
    if task == "load_outline":  # masks and explored sets of all, and the file
        return measured["result"] + measured["file"] + SLACK
    if task == "verify":  # those of one tensor
        return measured["file"] + largest + SLACK
    return measured["result"] + measured["file"] + largest + SLACK


def _status(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"this system does not tell {field}")
    return 1024 * int(match[1])


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(measure_here(arguments.task, arguments.path)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        value: Checkpoint = states.sparse(states.resnet50(), 0.1)
        checkpoint.save(path, value)
        largest = max(weight.nbytes for weight in value.weights.values())
        print(f"state {states.nbytes(value) / 1e6:.0f} MB, file {path.stat().st_size / 1e6:.1f} MB, "
              f"largest tensor {largest / 1e6:.1f} MB")  # fmt: skip
        print(f"\n  {'':20} {'result MB':>10} {'peak MB':>10}  limit MB")
        for task in TASKS:
            command = [sys.executable, "-m", "benchmarks.checkpoint_memory", "--task", task, "--path", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured = json.loads(done.stdout)
            results[task] = {**measured, "limit": allowed(task, measured, largest)}
            row = (results[task][key] / 1e6 for key in ("result", "peak", "limit"))
            print("  {:20} {:10.1f} {:10.1f}  <= {:.1f}".format(task, *row))
    if arguments.json:
        rows = [{"benchmark": "peak memory, bytes", "model": task, **row} for task, row in results.items()]
        write(arguments.json, rows)


if __name__ == "__main__":
    main()
