"""Compare the FLOPs of ``granet.flops`` with torch's own counter, over torchvision's and timm's classifiers.

    python -m scripts.compare_flops
    python -m scripts.compare_flops torchvision:vit_b_16 timm:swinv2_tiny_window8_256

Networks are outlines without data, so that a network takes a fraction of a second, however large it is. A row is a
network: the FLOPs of both counters, their ratio, and the share of products that no weight takes part in. Exits with 1
if a ratio is further from 1 than a hundredth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from granet import flops
from granet.errors import GranetError
from granet.models import outline
from granet.models.torchvision_guard import import_torchvision

FARTHEST = 0.01
"""Difference of the ratio from 1 that is put up with."""
_SIZES = (224, 256, 240, 288, 299, 331, 336, 384, 448, 512)
"""Sizes of images, which are tried in this order: many networks take one size alone."""


def main(names: list[str]) -> int:
    """Print a row for each network; return the exit status."""
    differ = 0
    print(f"{'network':48} {'size':>4} {'granet':>11} {'torch':>11} {'ratio':>9} {'without weights':>15}")
    for name in names or [*torchvision_names(), *timm_names()]:
        try:
            size, ours, theirs, without = compare(name)
        except GranetError as error:
            print(f"{name:48} {str(error)[:200]}", flush=True)
            continue
        ratio = ours / theirs
        wrong = abs(ratio - 1) > FARTHEST
        differ += wrong
        row = f"{name:48} {size:4} {ours:11.4e} {theirs:11.4e} {ratio:9.5f} {without / ours:15.1%}"
        print(row + "  DIFFERS" * wrong, flush=True)
    return int(differ > 0)


def compare(name: str) -> tuple[int, float, float, float]:
    """Return the size of images, FLOPs by granet and by torch, and those of products without weights.

    Raises:
        GranetError: the network takes no size, or cannot be traced.
    """
    for size in _SIZES:
        try:
            network = outline(name, in_channels=3, classes=1000, image_size=size).eval()
            costs = flops.layers(network, (3, size, size))
            break
        except GranetError as error:
            failure = error
    else:
        raise failure
    network = network.to("meta").requires_grad_(False)  # with gradients torch's counter fails on some networks
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        network(torch.empty(1, 3, size, size))
    return size, sum(costs.values()), float(counter.get_total_flops()), costs.get(flops.WITHOUT_WEIGHTS, 0.0)


def torchvision_names() -> Iterator[str]:
    """Yield the classification networks of torchvision."""
    models = import_torchvision().models
    yield from (f"torchvision:{name}" for name in models.list_models(module=models))


def timm_names() -> Iterator[str]:
    """Yield the smallest network of each of timm's modules, by the number in its name that timm sorts by."""
    import_torchvision()
    import timm

    for family in timm.list_modules():
        if names := timm.list_models(module=family):
            yield f"timm:{names[0]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
