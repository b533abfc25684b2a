"""What masking costs in an optimizer step, against the dense fused step of the same optimizer.

    python -m benchmarks.step_cost [--optimizers SGD AdamW] [--eager] [--rounds 31] [--json FILE]

Compiling takes a minute for each optimizer, unless the compiler has the kernel in its cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim import Optimizer

import granet
from benchmarks.measure import Measurement, heading, interleaved, report, save
from benchmarks.sized import Weights

LIMITS = {"granet": "<= 1.70", "granet, compiled": "<= 1.15"}

OPTIMIZERS: dict[str, Callable[[torch.nn.Module], Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True),
    "AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-3, fused=True),
}


def masked(make: Callable[[torch.nn.Module], Optimizer], device: torch.device, *, compiled: bool) -> Callable[[], None]:
    """A step with masks that never change, with what it takes to get there done."""
    weights = Weights(device)
    optimizer = make(weights)
    method = granet.methods.Static(density=0.1)
    sparsifier = granet.Sparsifier(weights, optimizer, method, total_steps=10**6, compiled=compiled)

    def step() -> None:
        optimizer.step()
        sparsifier.step()

    step()
    return step


def masking_afterwards(make: Callable[[torch.nn.Module], Optimizer], device: torch.device) -> Callable[[], None]:
    """The authors' way: after the step, two multiplications a layer by float masks."""
    weights = Weights(device)
    optimizer = make(weights)
    shapes = {name: parameter.shape for name, parameter in weights.named_parameters()}
    budgets = granet.allocation.erk(shapes, 0.1)
    masks = [m.float().to(device) for m in granet.masks.mapping.random(shapes, budgets, seed=0).values()]

    @torch.no_grad()
    def step() -> None:
        optimizer.step()
        for parameter, mask in zip(weights.parameters(), masks, strict=True):
            parameter.data = parameter.data * mask
            state = optimizer.state[parameter]
            if "momentum_buffer" in state:
                state["momentum_buffer"] = state["momentum_buffer"] * mask

    return step


def measure(name: str, device: torch.device, *, rounds: int, eager: bool) -> Measurement:
    """A dense fused step, the same masked in the ways there are, and the authors' way."""
    make = OPTIMIZERS[name]
    dense = Weights(device)
    candidates = {"dense fused": make(dense).step, "granet": masked(make, device, compiled=False)}
    if not eager:
        candidates["granet, compiled"] = masked(make, device, compiled=True)
    candidates["masking after the step"] = masking_afterwards(make, device)
    size = sum(parameter.numel() for parameter in dense.parameters())
    title = f"one optimizer step, {name}, {size / 1e6:.1f} M weights, density 0.1"
    return interleaved(title, candidates, rounds=rounds)


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--eager", action="store_true", help="leave out what takes a compiler")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(heading())
    measurements = []
    for name in arguments.optimizers:
        measurements.append(measure(name, device, rounds=arguments.rounds, eager=arguments.eager))
        report(measurements[-1], limits=LIMITS)
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
