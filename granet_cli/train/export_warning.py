"""The warning before a run that its network cannot be exported."""

from __future__ import annotations

from granet.models import CATALOG
from granet.training.run import Run


def warn_of_export(run: Run) -> None:
    """Write a warning if ``granet export --onnx`` would refuse the network of a run; its own networks it takes."""
    name = run.recipe.model.name
    if name in CATALOG:
        return
    import torch

    from exporters.export_check import obstacle
    from granet_cli.render import say

    size = run.dataset.image_size
    images = torch.zeros(2, run.dataset.channels, size, size)
    found = obstacle(run.model, run.sparsifier.masks, images, where=name)
    if found is not None:
        say(f"warning: this network can be trained, but granet export --onnx would refuse it: {found}")
