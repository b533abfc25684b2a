"""How much memory an update takes beyond weights, gradients, optimizer state and the masks that there are.

    python -m benchmarks.update_memory [--json FILE]

Each method is measured in a process of its own, at the size of a ResNet-50: the peak while one update is done, the
update that it returns included, less what was there before. A sparsifier itself holds, all the time, the multipliers of
the gradients, as large as the weights, or a byte a weight for a compiled step; its masks take a bit each. Needs Linux,
or a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import granet
from benchmarks.measure import heading, write
from benchmarks.resident import peak
from benchmarks.sized import Weights
from granet.methods import SET, SNFS, GMPUniform, GraNet, RigLITOP
from granet.methods.base import Method

LIMIT = 0.25
METHODS: dict[str, Method] = {
    "granet": GraNet(density=0.1, initial_density=0.5, interval=2, end=100),
    "granet, dense start": GraNet(density=0.1, interval=2, end=100),
    "rigl-itop": RigLITOP(density=0.1, interval=2),
    "gmp-uniform": GMPUniform(density=0.1, interval=2, end=100),
    "set": SET(density=0.1, interval=2),
    "snfs": SNFS(density=0.1, interval=2),
}
CASES = [(name, update, False) for name in METHODS for update in (1, 3)] + [("granet", 3, True)]
"""Method, which of its updates, and whether the step is compiled."""


def measure_here(name: str, number: int, compiled: bool) -> dict[str, object]:
    """In this process: bytes at the peak of an update beyond those before, and bytes that are held after it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _before(Weights(device, 0.02), name, 1)()  # loads the libraries
    model = Weights(device)
    extra, left = peak(_before(model, name, number, compiled=compiled), device)
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "benchmark": "memory of an update",
        "model": name + (", compiled" if compiled else ""),
        "update": number,
        "weights_bytes": size,
        "peak_bytes": extra,
        "left_bytes": left,
        "ratio": extra / size,
        "limit": LIMIT,
    }


def _before(
    model: torch.nn.Module, name: str, number: int, *, compiled: bool = False
) -> Callable[[], granet.TopologyUpdate | None]:
    """Trains ``model`` up to the optimizer step of that update; what is returned does the update."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    sparsifier = granet.Sparsifier(model, optimizer, METHODS[name], total_steps=200, compiled=compiled)
    for step in range(2 * number):
        if step:
            sparsifier.step()
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return sparsifier.step


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure_here(*CASES[arguments.case])))
        return
    print(heading())
    print(f"\n  {'':24} {'update':>6} {'peak MB':>8} {'left MB':>8}  over the weights  limit")
    rows = []
    for case in range(len(CASES)):
        command = [sys.executable, "-m", "benchmarks.update_memory", "--case", str(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        rows.append(row)
        print(f"  {row['model']:24} {row['update']:6} {row['peak_bytes'] / 1e6:8.1f} {row['left_bytes'] / 1e6:8.1f} "
              f" {row['ratio']:16.3f}  <= {LIMIT}", flush=True)  # fmt: skip
    if arguments.json:
        write(arguments.json, rows)


if __name__ == "__main__":
    main()
