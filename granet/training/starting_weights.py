"""Starting from the weights in a file: settled once, when the run begins; every checkpoint has them from then on."""

from __future__ import annotations

from typing import Any

from torch import nn

from granet.data import Dataset
from granet.importing import starting
from granet.recipe import Recipe


def settled(recipe: Recipe) -> Recipe:
    """The recipe with the hash of the file that its run starts from, if it starts from one.

    Raises:
        FileError: the file cannot be read.
    """
    if recipe.model.weights is None or recipe.model.weights_hash is not None:
        return recipe
    return recipe.override({"model.weights_hash": starting.content_hash(recipe.model.weights)})


def start(recipe: Recipe, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Puts the weights that the recipe names into ``model``, fresh and on the CPU, and says so for the metrics.

    A rewound run starts from its parent instead, whatever that started from.

    Returns:
        What becomes ``metrics["start"]``: ``file``, ``hash``, ``initialised`` and ``remarks``, as
        :class:`granet.importing.Start` has them; empty when the recipe names no weights.

    Raises:
        CheckpointError: the file cannot be read, or is another one than the recipe's.
        ModelError: it does not fit the network.
    """
    if recipe.model.weights is None or recipe.rewind is not None:
        return {}
    begun = starting.start_from(
        recipe.model.weights,
        model,
        recipe.model.name,
        in_channels=dataset.channels,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        expected_hash=recipe.model.weights_hash,
    )
    return {
        "start": {
            "file": begun.file,
            "hash": begun.hash,
            "initialised": list(begun.initialised),
            "remarks": list(begun.remarks),
        }
    }


def notes(metrics: dict[str, Any]) -> tuple[str, ...]:
    """What to tell about the start of a run, in words; nothing where it was initialised."""
    if "start" not in metrics:
        return ()
    begun = metrics["start"]
    lines = [f"starting from the weights in {begun['file']}"]
    if begun["initialised"]:
        lines.append(f"left as initialised, being of another number of classes: {', '.join(begun['initialised'])}")
    return (*lines, *begun["remarks"])
