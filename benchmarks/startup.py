"""How long until something happens: help, and the first step of training, from the command on.

    python -m benchmarks.startup [--rounds 9] [--json FILE]

Every sample is a process of its own, with its files in the page cache. A training is over for this purpose when its
first step is done. What Python, torch and the compiler front end that torch's optimizers import take by themselves is
measured beside it: no command that trains can be faster than the sum.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Measurement, heading, interleaved, report, save

LIMITS = {"granet --help": "<= 300 ms", "granet train, to the end of the first step": "<= 4000 ms"}

# Like the command, but that training is asked after its first step whether to stop, and ends the process there.
FIRST_STEP = """
import os, sys
from contextlib import contextmanager
from granet_cli import app, startup
startup.defer_garbage_collection()
from granet import training
asked = 0
def stop():
    global asked
    asked += 1
    if asked == 2:
        os._exit(0)
    return False
@contextmanager
def signals(**_):
    yield stop
training.stop_on_signals = signals
sys.exit(app.run(["train", "--device", "cpu", "--out", sys.argv[1]]))
"""


def measure(rounds: int) -> Measurement:
    """Seconds of each."""

    def python(code: str, *arguments: str) -> Callable[[], None]:
        return lambda: _run([sys.executable, "-c", code, *arguments])

    def first_step() -> None:
        with tempfile.TemporaryDirectory() as folder:
            _run([sys.executable, "-c", FIRST_STEP, str(Path(folder) / "run")])

    return interleaved(
        "a process, from its start",
        {
            "python": python("pass"),
            "granet --help": lambda: _run([sys.executable, "-m", "granet_cli", "--help"]),
            "import torch": python("import torch"),
            "import torch, torch._dynamo": python("import torch, torch._dynamo"),
            "granet train, to the end of the first step": first_step,
        },
        rounds=rounds,
        warmup=2,
        control="import torch, torch._dynamo",
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(heading())
    measurement = measure(arguments.rounds)
    report(measurement, limits=LIMITS)
    if arguments.json:
        save(arguments.json, [measurement])


if __name__ == "__main__":
    main()
