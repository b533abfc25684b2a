"""How long a durable save and a load take, hashes included, against torch.save and torch.load of the dense state.

    python -m benchmarks.checkpoint_time [--rounds 15] [--folder DIR] [--json FILE]

The state is that of a ResNet-50 in training with SGD at density 0.1. Durable means that file and folder have reached
the disk; files are read back from the page cache, where a slow disk would favour the smaller one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import states
from benchmarks.measure import Measurement, heading, interleaved, report, save
from granet.checkpoint import codec, load, load_outline, verify
from granet.checkpoint import save as save_checkpoint

LIMITS = {"granet.checkpoint.save": "<= 1.00", "granet.checkpoint.load": "<= 1.50"}


def measure(folder: Path, rounds: int) -> list[Measurement]:
    """Saves, loads, and what a load is made of."""
    model = states.resnet50()
    value, dense = states.sparse(model, 0.1), states.dense(model)
    sparse_file, dense_file = folder / "sparse.safetensors", folder / "dense.pt"

    def torch_save() -> None:
        """As atomic and as durable as ours."""
        temporary = folder / "dense.tmp"
        with temporary.open("wb") as file:
            torch.save(dense, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(dense_file)
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    saves = interleaved(
        "a durable save",
        {
            "torch.save, dense": torch_save,
            "granet.checkpoint.save": lambda: save_checkpoint(sparse_file, value),
            "of which encoding": lambda: codec.encode(value),
        },
        rounds=rounds,
    )
    loads = interleaved(
        "a load",
        {
            "torch.load, dense": lambda: torch.load(dense_file, weights_only=True),
            "granet.checkpoint.load": lambda: load(sparse_file),
            "granet.checkpoint.load_outline": lambda: load_outline(sparse_file),
            "granet.checkpoint.verify": lambda: verify(sparse_file),
        },
        rounds=rounds,
    )
    return [saves, loads, hashes(rounds)]


def hashes(rounds: int) -> Measurement:
    """The two hashes that were to choose from, over 25 MB."""
    data = np.random.default_rng(0).integers(0, 256, 25_000_000, dtype=np.uint8).data
    candidates = {"blake2b": lambda: hashlib.blake2b(data).digest(), "sha256": lambda: hashlib.sha256(data).digest()}
    return interleaved("a hash of 25 MB", candidates, rounds=rounds)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where to write; the default is the present folder's disk")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(heading())
    with tempfile.TemporaryDirectory(dir=arguments.folder or Path.cwd()) as folder:
        measurements = measure(Path(folder), arguments.rounds)
    for measurement in measurements:
        report(measurement, control=next(iter(measurement.samples)), limits=LIMITS)
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
