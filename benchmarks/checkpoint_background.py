"""What a background save takes from the training loop, as a share of what the save itself takes.

    python -m benchmarks.checkpoint_background [--step-ms 150] [--json FILE]

The loop stands for one whose forward and backward pass run on a GPU: it waits for a step's time without using the
CPU, then has to change the weights. A second table shows the same where all cores compute, as in training on a CPU:
there the encoder and the loop share the cores, and nothing can be free.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import Measurement, heading, interleaved, report, save
from benchmarks.states import resnet50, sparse
from granet.checkpoint import save as save_now
from granet.training.checkpoint_thread import CheckpointThread

STEPS = 6


def measure(name: str, step: Callable[[], object], rounds: int) -> Measurement:
    """The loop without a save, the loop that submits one, and a save by itself."""
    value = sparse(resnet50(), 0.1)
    folder = Path(tempfile.mkdtemp())
    saver = CheckpointThread(torch.device("cpu"))

    def loop(*, saving: bool) -> None:
        if saving:
            saver.submit(value, [folder / "last.safetensors"])
        for _ in range(STEPS):
            step()
            saver.release()

    def alone() -> None:
        loop(saving=False)

    def with_save() -> None:
        loop(saving=True)

    def save_itself() -> None:
        saver.close()
        save_now(folder / "alone.safetensors", value)

    return interleaved(
        f"{STEPS} steps, {name}",
        {"a save by itself": save_itself, "the loop": alone, "the loop with a save": with_save},
        rounds=rounds,
        warmup=1,
        control="the loop",
    )


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, default=150.0)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(heading())
    matrix = torch.randn(1200, 1200)

    def compute() -> None:
        end = time.perf_counter() + arguments.step_ms / 1e3
        while time.perf_counter() < end:
            matrix @ matrix

    measurements = [
        measure(
            f"waiting {arguments.step_ms:g} ms for a device",
            lambda: time.sleep(arguments.step_ms / 1e3),
            arguments.rounds,
        ),
        measure(f"computing {arguments.step_ms:g} ms on all cores", compute, arguments.rounds),
    ]
    for measurement in measurements:
        report(measurement)
        lost = measurement.median("the loop with a save") - measurement.median("the loop")
        share = lost / measurement.median("a save by itself")
        print(f"  lost to the save: {1e3 * lost:.1f} ms, {100 * share:.0f} % of a save's time (limit 5 %)")
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
