"""What one GraNet update costs, against sorting every tensor as the authors' code does.

python -m benchmarks.update_cost [--json FILE]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import granet
from benchmarks.measure import Measurement, environment, interleaved, report, save
from benchmarks.sized import Weights
from granet.allocation import total_budget
from granet.method import Snapshot
from granet.methods import GraNet

LIMIT = "<= 0.20"
DENSITY_BEFORE, STEP, TOTAL = 0.5, 8, 20


@torch.no_grad()
def by_sorting(weights: dict[str, Tensor], gradients: dict[str, Tensor], masks: dict[str, Tensor], keep: int, r: float):
    """Prune globally, then swap per layer, by full sorts and float masks: the plain way to write GraNet down."""
    scores = torch.cat([weight.abs().flatten() * masks[name].flatten() for name, weight in weights.items()])
    threshold = torch.sort(scores, descending=True).values[keep - 1]
    result = {}
    for name, weight in weights.items():
        mask = (weight.abs() * masks[name] >= threshold).float()
        count = math.ceil(r * int(mask.sum()))
        order = torch.sort((weight * mask).abs().flatten()).indices
        zeros = mask.numel() - int(mask.sum())
        mask.view(-1)[order[: zeros + count]] = 0.0
        order = torch.sort((gradients[name] * (mask == 0).float()).abs().flatten(), descending=True).indices
        mask.view(-1)[order[:count]] = 1.0
        result[name] = mask
    return result


def measure(device: torch.device, rounds: int) -> Measurement:
    """The whole update: choosing the masks, and making weights and momentum follow."""
    model = Weights(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)
    method = GraNet(density=0.1, initial_density=DENSITY_BEFORE, interval=STEP, end=TOTAL)
    sparsifier = granet.Sparsifier(model, optimizer, method, total_steps=TOTAL + 1)
    optimizer.step()
    sparsifier.step()
    weights = {name: model.get_parameter(name).detach() for name in sparsifier.masks}
    gradients = {name: model.get_parameter(name).grad for name in weights}
    floats = {name: mask.float() for name, mask in sparsifier.masks.items()}
    shapes = {name: mask.shape for name, mask in floats.items()}
    keep = total_budget(shapes, method.scheduled_density(STEP, TOTAL + 1))
    fraction = method.fraction(STEP, TOTAL + 1)
    masks = dict(sparsifier.masks)

    def choose() -> None:
        at = Snapshot(
            step=STEP, total_steps=TOTAL + 1, weights=weights, gradients=gradients, momenta={}, masks=masks, seed=0
        )
        method.update(at)

    updating = Weights(device)
    stepping = torch.optim.SGD(updating.parameters(), lr=1e-6, momentum=0.9, fused=True)
    every_step = GraNet(density=0.1, initial_density=DENSITY_BEFORE, interval=1, end=1000)
    whole = granet.Sparsifier(updating, stepping, every_step, total_steps=1001)
    stepping.step()

    return interleaved(
        f"one GraNet update (prune and swap), {sum(w.numel() for w in weights.values()) / 1e6:.1f} M weights",
        {
            "sorting every tensor": lambda: by_sorting(weights, gradients, floats, keep, fraction),
            "granet, new masks": choose,
            "granet, weights and momentum too": whole.step,
        },
        rounds=rounds,
        warmup=1,
    )


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(environment())
    measurement = measure(torch.device("cuda" if torch.cuda.is_available() else "cpu"), arguments.rounds)
    limits = dict.fromkeys(("granet, new masks", "granet, weights and momentum too"), LIMIT)
    report(measurement, control="sorting every tensor", limits=limits)
    if arguments.json:
        save(arguments.json, [measurement])


if __name__ == "__main__":
    main()
