"""What masking costs in an optimizer step, against the dense fused step of the same optimizer.

python -m benchmarks.step_cost [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

import granet
from benchmarks.measure import Measurement, environment, interleaved, report, save
from benchmarks.sized import Weights

LIMIT = "<= 2.00"

OPTIMIZERS: dict[str, Callable[[torch.nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True),
    "AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-3, fused=True),
}


def measure(name: str, device: torch.device) -> Measurement:
    """A dense fused step, the same masked, and the authors' way: two multiplications a layer after the step."""
    make = OPTIMIZERS[name]
    dense, masked, authors = (Weights(device) for _ in range(3))
    dense_optimizer, masked_optimizer, authors_optimizer = make(dense), make(masked), make(authors)
    method = granet.methods.Static(density=0.1)
    sparsifier = granet.Sparsifier(masked, masked_optimizer, method, total_steps=10**6)
    masks = [mask.float() for mask in sparsifier.masks.values()]

    def masked_step() -> None:
        masked_optimizer.step()
        sparsifier.step()

    @torch.no_grad()
    def authors_step() -> None:
        authors_optimizer.step()
        for parameter, mask in zip(authors.parameters(), masks, strict=True):
            parameter.data = parameter.data * mask
            state = authors_optimizer.state[parameter]
            if "momentum_buffer" in state:
                state["momentum_buffer"] = state["momentum_buffer"] * mask

    return interleaved(
        f"one optimizer step, {name}, {sum(p.numel() for p in dense.parameters()) / 1e6:.1f} M weights, density 0.1",
        {"dense fused": dense_optimizer.step, "granet": masked_step, "masking after the step": authors_step},
    )


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(environment())
    measurements = [measure(name, device) for name in OPTIMIZERS]
    for measurement in measurements:
        report(measurement, control="dense fused", limits={"granet": LIMIT})
    if arguments.json:
        save(arguments.json, measurements)


if __name__ == "__main__":
    main()
