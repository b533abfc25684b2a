"""What selecting the k largest costs, against three reads of the scores at the bandwidth of a copy.

    python -m benchmarks.selection_cost [--weights 25500000] [--rounds 11] [--json FILE]

A copy reads and writes its bytes, so three reads are counted as one and a half copies, each timed beside what it is
compared with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.measure import Measurement, heading, interleaved, report, save
from benchmarks.sized import Weights
from granet.masks.packed import PackedMasks
from granet.masks.selection import top_k
from granet.topology import prune_to

CONTROL = "three reads at copy bandwidth"


def measure(device: torch.device, size: int, rounds: int) -> Measurement:
    """Of one tensor of scores, and of all layers of a ResNet-50 by magnitude within masks; torch's ways beside them."""
    scores = torch.rand(size, generator=torch.Generator().manual_seed(0)).to(device)
    target = torch.empty_like(scores)
    weights = {name: parameter.detach() for name, parameter in Weights(device).named_parameters()}
    masks = PackedMasks.of({name: torch.rand_like(weight) < 0.5 for name, weight in weights.items()})
    masks_of_half = sum(masks.counts.values())
    found = interleaved(
        f"the k largest of {size / 1e6:.1f} M scores",
        {
            CONTROL: lambda: target.copy_(scores),
            "granet, k = 10 %": lambda: top_k(scores, size // 10),
            "granet, k = 50 %": lambda: top_k(scores, size // 2),
            "granet, prune a network": lambda: prune_to(weights, masks, masks_of_half // 2),
            "torch.topk, k = 10 %": lambda: torch.topk(scores, size // 10, sorted=False),
            "torch.sort": lambda: torch.sort(scores, descending=True),
        },
        rounds=rounds,
        warmup=1,
    )
    samples = {**found.samples, CONTROL: [1.5 * seconds for seconds in found.samples[CONTROL]]}
    return Measurement(found.name, samples, CONTROL)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=25_500_000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit = "<= 3.00" if device.type == "cuda" else "<= 4.00"
    print(heading())
    measurement = measure(device, arguments.weights, arguments.rounds)
    report(measurement, limits={name: limit for name in measurement.samples if name.startswith("granet")})
    if arguments.json:
        save(arguments.json, [measurement])


if __name__ == "__main__":
    main()
