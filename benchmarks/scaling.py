"""How time and memory grow with the network: a masked optimizer step and a GraNet update, from 1 M to 400 M weights.

    python -m benchmarks.scaling [--most 400] [--json FILE]

Layers have the shapes of a ResNet-50 with more or fewer output channels. Each size is measured in a process of its own:
medians over some steps and updates, and the peak of an update beyond what was there before it. The exponent is the
slope of a line through the logarithms, from 16 M weights on, where Python is no longer what takes the time: 1 is
linear. Takes about 18 bytes a weight, 7 GB for 400 M. Needs Linux, or a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import granet
from benchmarks.measure import heading, synchronize, write
from benchmarks.resident import peak
from benchmarks.sized import Weights
from granet.methods import GraNet

SCALES = [0.04, 0.16, 0.63, 2.5, 10.0, 16.0]
"""Output channels over those of a ResNet-50, which has 25.5 M weights."""
INTERVAL, UPDATES = 4, 5
FIGURES = {"step_s": "masked step", "update_s": "update", "peak_bytes": "memory of an update"}


def measure_here(scale: float) -> dict[str, object]:
    """In this process: seconds of a masked step and of an update, and bytes at the peak of one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Weights(device, scale)
    size = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)
    method = GraNet(density=0.1, initial_density=0.5, interval=INTERVAL, end=INTERVAL * (UPDATES + 2))
    sparsifier = granet.Sparsifier(model, optimizer, method, total_steps=100)
    steps, updates = [], []
    for number in range(1, INTERVAL * (UPDATES + 1)):
        due = number % INTERVAL == 0
        took = _seconds(optimizer.step)
        took_then = _seconds(sparsifier.step)
        if due:
            updates.append(took_then)
        elif number > INTERVAL:  # the first steps ask for memory
            steps.append(took + took_then)
    optimizer.step()
    extra, _ = peak(sparsifier.step, device)
    return {
        "benchmark": "scaling",
        "model": f"{size / 1e6:.1f} M weights",
        "weights": size,
        "step_s": statistics.median(steps),
        "update_s": statistics.median(updates),
        "peak_bytes": extra,
    }


def _seconds(run: Callable[[], object]) -> float:
    synchronize()
    begin = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - begin


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """The power of the size that the figures grow with."""
    slope, _ = np.polyfit(np.log(sizes), np.log(figures), 1)
    return float(slope)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--most", type=float, default=410.0, metavar="M", help="the largest network, in million weights"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scale", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.scale is not None:
        print(json.dumps(measure_here(arguments.scale)))
        return
    print(heading())
    print(f"\n  {'M weights':>9}  {'step ms':>8} {'ns/weight':>9}  {'update ms':>9} {'ns/weight':>9}  "
          f"{'memory MB':>9} {'B/weight':>8}")  # fmt: skip
    rows = []
    for scale in SCALES:
        if 25.5 * scale > arguments.most:
            continue
        command = [sys.executable, "-m", "benchmarks.scaling", "--scale", str(scale)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append(row)
        size, step, update, extra = (row[key] for key in ("weights", "step_s", "update_s", "peak_bytes"))
        print(f"  {size / 1e6:9.1f}  {1e3 * step:8.2f} {1e9 * step / size:9.2f}  {1e3 * update:9.1f} "
              f"{1e9 * update / size:9.2f}  {extra / 1e6:9.1f} {extra / size:8.2f}", flush=True)  # fmt: skip
    large = [row for row in rows if row["weights"] > 1e7]
    slopes = {}
    if len(large) > 2:
        sizes = [row["weights"] for row in large]
        slopes = {key: exponent(sizes, [row[key] for row in large]) for key in FIGURES}
        print("\n  exponent: " + ", ".join(f"{FIGURES[key]} {slope:.2f}" for key, slope in slopes.items()))
    if arguments.json:
        write(arguments.json, rows, exponents=slopes)


if __name__ == "__main__":
    main()
