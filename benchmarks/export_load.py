"""What an exported file costs when it is opened and run, against its dense twin. Needs Linux.

    python -m benchmarks.export_load [--rounds 15] [--batch 1] [--json FILE]

A ResNet-50 at density 0.1, ERK. Every sample is a process of its own, with nothing in it but NumPy and ONNX Runtime,
that opens one file on the CPU with all optimisations and runs it; files take turns, so that what disturbs one disturbs
all. Memory is the peak of the resident set while the session is created, less what was resident before.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.measure import Measurement

DENSE = "dense twin"
SESSION, WORK = "creating a session", "processor time of that, which other work on the machine disturbs less"
MEMORY, RUN = "peak memory of that", "a run"
SESSION_LIMIT, MEMORY_LIMIT = "<= 1.50", "<= 1.60"
RUNS, WARMUP = 15, 3


def measure_here(path: Path, batch: int) -> dict[str, float]:
    """Opens and runs a file in this process."""
    import onnxruntime

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
    before, begin, work = _status("VmRSS"), time.perf_counter(), time.process_time()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    opened, worked, peak = time.perf_counter() - begin, time.process_time() - work, _status("VmHWM") - before
    (node,) = session.get_inputs()
    images = {node.name: np.random.default_rng(0).normal(size=(batch, *node.shape[1:])).astype(np.float32)}
    samples = []
    for _ in range(WARMUP + RUNS):
        begin = time.perf_counter()
        session.run(None, images)
        samples.append(time.perf_counter() - begin)
    return {SESSION: opened, WORK: worked, MEMORY: peak, RUN: statistics.median(samples[WARMUP:])}


def _status(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"this system does not tell {field}")
    return 1024 * int(match[1])


def make_files(folder: Path) -> dict[str, Path]:
    """The dense twin and files of several precisions of one checkpoint."""
    from benchmarks import states
    from exporters.onnx_export import ExportSettings, export, twin_of
    from granet import checkpoint

    source = folder / "resnet50.safetensors"
    checkpoint.save(source, states.sparse(states.resnet50(), 0.1))
    value = checkpoint.load(source)
    files = {DENSE: twin_of(folder / "fp32.onnx")}
    for precision in ("fp32", "fp16", "int8"):
        output = folder / f"{precision}.onnx"
        export(
            value,
            output,
            ExportSettings(precision=precision, twin=precision == "fp32"),
        )
        files[f"sparse, {precision} values"] = output
    return files


def measure(files: dict[str, Path], rounds: int, batch: int) -> list[Measurement]:
    """Creation of a session, its processor time, its peak memory in bytes, and a run."""
    from benchmarks.measure import Measurement

    samples: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in files} for what in (SESSION, WORK, MEMORY, RUN)
    }
    for number in range(rounds + 1):
        for name, path in files.items():
            command = [sys.executable, "-m", "benchmarks.export_load", "--path", str(path), "--batch", str(batch)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if number:  # the first time fills the page cache
                for what, value in json.loads(done.stdout).items():
                    samples[what][name].append(value)
    return [Measurement(what, per_file) for what, per_file in samples.items()]


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.path:
        print(json.dumps(measure_here(arguments.path, arguments.batch)))
        return
    from benchmarks.measure import environment, report, save  # imports torch, which does not belong above

    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        session, work, memory, run = measure(make_files(Path(folder)), arguments.rounds, arguments.batch)
    for creation in (session, work):
        report(creation, control=DENSE, limits=dict.fromkeys(creation.samples, SESSION_LIMIT))
    print(f"\n{MEMORY}\n  {'':32} {'median MB':>10}  {'ratio':>7}  {'95 % interval':>17}  limit")
    for name in memory.samples:
        ratio, low, high = memory.ratio(name, DENSE)
        interval = f"{low:.2f} to {high:.2f}"
        print(f"  {name:32} {memory.median(name) / 1e6:10.1f}  {ratio:7.2f}  {interval:>17}  {MEMORY_LIMIT}")
    report(run, control=DENSE, limits=dict.fromkeys(run.samples, "1.00 within noise"))
    if arguments.json:
        save(arguments.json, [session, work, run])
        document = json.loads(arguments.json.read_text()) | {"memory_bytes": memory.samples}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
