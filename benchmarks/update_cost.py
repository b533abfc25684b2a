"""What one GraNet update costs, against sorting every tensor as the authors' code does.

    python -m benchmarks.update_cost [--rounds 9] [--json FILE]

Before every round weights, momentum and masks are put back to where they were, which is not timed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

import granet
from benchmarks.measure import Measurement, heading, report, save, synchronize
from benchmarks.sized import Weights
from granet.allocation import total_budget
from granet.methods import GraNet
from granet.methods.snapshot import Snapshot

CONTROL = "sorting every tensor"
LIMIT = "<= 0.10"
DENSITY_BEFORE, STEP, TOTAL = 0.5, 8, 20


@torch.no_grad()
def by_sorting(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], masks: Mapping[str, Tensor], keep: int, r: float
) -> dict[str, Tensor]:
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


class Training:
    """A network in the middle of training, of which the same update can be done again and again."""

    def __init__(self, device: torch.device, *, compiled: bool) -> None:
        self.model = Weights(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        self.method = GraNet(density=0.1, initial_density=DENSITY_BEFORE, interval=STEP, end=TOTAL)
        self.sparsifier = granet.Sparsifier(
            self.model, self.optimizer, self.method, total_steps=TOTAL + 1, compiled=compiled
        )
        self.optimizer.step()
        self.sparsifier.step()
        self._state = {**self.sparsifier.state_dict(), "step": STEP - 1}
        self._tensors = [
            (tensor, tensor.detach().clone())
            for parameter in self.model.parameters()
            for tensor in (parameter, self.optimizer.state[parameter]["momentum_buffer"])
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts back what an update changes."""
        for tensor, value in self._tensors:
            tensor.copy_(value)
        self.sparsifier.load_state_dict(self._state)

    def snapshot(self) -> Snapshot:
        """What the method sees."""
        weights = {name: self.model.get_parameter(name).detach() for name in self.sparsifier.masks}
        return Snapshot(
            step=STEP,
            total_steps=TOTAL + 1,
            weights=weights,
            gradients={name: self.model.get_parameter(name).grad for name in weights},
            momenta={},
            masks=self.sparsifier.masks,
            seed=0,
        )


def measure(device: torch.device, rounds: int) -> Measurement:
    """The whole update: choosing the masks, and making weights and momentum follow."""
    training, compiled = (Training(device, compiled=flag) for flag in (False, True))
    at = training.snapshot()
    floats = {name: mask.float() for name, mask in at.masks.items()}
    shapes = {name: mask.shape for name, mask in floats.items()}
    keep = total_budget(shapes, training.method.scheduled_density(STEP, TOTAL + 1))
    fraction = training.method.fraction(STEP, TOTAL + 1)
    candidates: dict[str, Callable[[], object]] = {
        CONTROL: lambda: by_sorting(at.weights, at.gradients, floats, keep, fraction),
        "granet, new masks": lambda: training.method.update(at),
        "granet, weights and momentum too": training.sparsifier.step,
        "the same, for a compiled step": compiled.sparsifier.step,
    }
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(1 + rounds):
        for name, run in candidates.items():
            training.restore()
            compiled.restore()
            synchronize()
            begin = time.perf_counter()
            run()
            synchronize()
            if number:
                samples[name].append(time.perf_counter() - begin)
    size = sum(weight.numel() for weight in at.weights.values())
    return Measurement(f"one GraNet update (prune and swap), {size / 1e6:.1f} M weights", samples, CONTROL)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(heading())
    measurement = measure(torch.device("cuda" if torch.cuda.is_available() else "cpu"), arguments.rounds)
    report(measurement, limits=dict.fromkeys([name for name in measurement.samples if name != CONTROL], LIMIT))
    if arguments.json:
        save(arguments.json, [measurement])


if __name__ == "__main__":
    main()
