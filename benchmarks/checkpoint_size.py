"""How small checkpoints are: weights against what information theory leaves, and a whole state against torch.save.

python -m benchmarks.checkpoint_size [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import states
from benchmarks.measure import write
from granet.checkpoint import codec

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.5)
OVER_LIMIT, RATIO_LIMIT = 0.05, 7.5


def entropy(density: float) -> float:
    """Bits per weight of a random mask."""
    return -sum(p * math.log2(p) for p in (density, 1 - density) if p)


def weights() -> Iterator[dict[str, object]]:
    """The whole file of nothing but masked weights in fp32, header and hashes included, in bits per weight."""
    model = states.resnet50()
    for allocation in states.ALLOCATIONS:
        for density in DENSITIES:
            value = states.sparse(model, density, allocation=allocation, training=False)
            count = sum(mask.numel() for mask in value.masks.values())
            bits = 8 * len(codec.encode(value)) / count
            bound = entropy(density) + 32 * density
            yield {"allocation": allocation, "density": density, "bits": bits, "bound": bound, "over": bits / bound - 1}


def state() -> dict[str, object]:
    """An SGD training state at density 0.1, half of all weights explored, against the dense one."""
    model = states.resnet50()
    sparse, dense = len(codec.encode(states.sparse(model, 0.1))), io.BytesIO()
    torch.save(states.dense(model), dense)
    return {"sparse": sparse, "dense": dense.tell(), "ratio": dense.tell() / sparse}


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print("\nResNet-50 weights, bits per weight of the whole file")
    print(f"  {'allocation':12} {'density':>8} {'file':>8} {'H(d) + 32 d':>12} {'over':>8}  limit")
    rows = []
    for row in weights():
        rows.append(row)
        print(
            f"  {row['allocation']:12} {row['density']:8} {row['bits']:8.3f} {row['bound']:12.3f} {row['over']:+8.2%}"
            f"  <= {OVER_LIMIT:.0%}"
        )
    whole = state()
    print("\nResNet-50, SGD training state, density 0.1")
    print(f"  checkpoint {whole['sparse']:,} bytes, torch.save of the dense state {whole['dense']:,} bytes")
    print(f"  {whole['ratio']:.2f} times smaller  limit >= {RATIO_LIMIT}")
    if arguments.json:
        bits = [{"benchmark": "weights, bits each", **row} for row in rows]
        write(arguments.json, [*bits, {"benchmark": "training state, bytes", **whole}])


if __name__ == "__main__":
    main()
