"""What sparsity costs in a whole training step: forward, backward, optimizer and mask, against the dense network.

    python -m benchmarks.train_step [--rounds 30] [--json FILE]

On a GPU a CIFAR ResNet-50 on batches of 128 in bf16, on a CPU a ResNet-8 on batches of 64 in fp32. Masked weights are
multiplied as dense ones, so the best that can be hoped for is a ratio of 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

import granet
from benchmarks.measure import Measurement, heading, interleaved, report, save
from granet.models import build

LIMIT = "<= 1.05"


def measure(device: torch.device, rounds: int) -> Measurement:
    """A dense step, one with masks, and one of a method that updates them at every hundredth step."""
    on_gpu = device.type == "cuda"
    name, channels, size, batch = ("resnet50", 3, 32, 128) if on_gpu else ("resnet8", 1, 28, 64)
    images = torch.randn(batch, channels, size, size, device=device)
    labels = torch.randint(10, (batch,), device=device)
    methods = {
        "dense": None,
        "masked, density 0.1": granet.methods.Static(density=0.1),
        "granet, an update in 10 steps": granet.methods.GraNet(density=0.1, interval=10),
    }

    def stepper(method: object) -> Callable[[], None]:
        model = build(name, in_channels=channels, classes=10, image_size=size).to(device)
        if on_gpu:
            model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        sparsifier = None if method is None else granet.Sparsifier(model, optimizer, method, total_steps=10**5)

        def ten_steps() -> None:
            for _ in range(10):
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                    loss = functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                if sparsifier is not None:
                    sparsifier.step()

        return ten_steps

    return interleaved(
        f"ten training steps, {name}, batch {batch}, {'bf16' if on_gpu else 'fp32'}",
        {label: stepper(method) for label, method in methods.items()},
        rounds=rounds,
    )


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    print(heading())
    measurement = measure(torch.device("cuda" if torch.cuda.is_available() else "cpu"), arguments.rounds)
    report(measurement, limits={"masked, density 0.1": LIMIT})
    if arguments.json:
        save(arguments.json, [measurement])


if __name__ == "__main__":
    main()
