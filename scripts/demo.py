"""What ``make demo`` runs: train on the data that come along, look inside, evaluate, export, measure inference.

Stops at the first command that fails, with its exit code.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

BEST = "runs/demo/best.safetensors"
SPARSE = "runs/demo/sparse.onnx"
COMMANDS = (
    "granet train --recipe quickstart --out runs/demo --overwrite",
    f"granet inspect {BEST}",
    f"granet eval {BEST}",
    f"granet export --onnx {BEST} -o {SPARSE} --twin --overwrite",
    f"granet bench {SPARSE} --batch 1,32 --time-limit 10",
)


def main() -> int:
    """Runs the commands in the repository's root, in this Python; returns the exit code."""
    for command in COMMANDS:
        print(f"\n$ {command}", flush=True)
        _, *arguments = shlex.split(command)
        code = subprocess.call([sys.executable, "-m", "granet_cli", *arguments], cwd=Path(__file__).parents[1])
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
