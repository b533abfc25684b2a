"""Weights from a file that a run starts from; its checkpoints contain them from the first one on."""

from __future__ import annotations

from typing import Any

from torch import nn

from granet.analysis.json_values import json_value
from granet.data import Dataset
from granet.importing import initial_weights
from granet.recipe import Recipe


def with_weights_hash(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with the hash of the weights file that it names, if it names one.

    Raises:
        FileError: the file cannot be read.
    """
    if recipe.model.weights is None or recipe.model.weights_hash is not None:
        return recipe
    return recipe.override({"model.weights_hash": initial_weights.content_hash(recipe.model.weights)})


def start(recipe: Recipe, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Load the weights file that the recipe names into ``model``, which is on the CPU.

    A rewound run starts from its parent instead.

    Returns:
        ``start`` for the metrics: ``file``, ``hash``, ``initialised`` and ``remarks`` of
        :class:`granet.importing.StartingWeights`; empty when the recipe names no weights.

    Raises:
        CheckpointError: the file cannot be read, or is another one than the recipe's.
        ModelError: it does not fit the network.
    """
    if recipe.model.weights is None or recipe.rewind is not None:
        return {}
    begun = initial_weights.start_from(
        recipe.model.weights,
        model,
        recipe.model.name,
        in_channels=dataset.channels,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        expected_hash=recipe.model.weights_hash,
    )
    return {"start": json_value(begun)}


def notes(metrics: dict[str, Any]) -> tuple[str, ...]:
    """Return messages about the weights that a run started from; none if they were initialised."""
    if "start" not in metrics:
        return ()
    begun = metrics["start"]
    lines = [f"starting from the weights in {begun['file']}"]
    if begun["initialised"]:
        lines.append(f"left as initialised, being of another number of classes: {', '.join(begun['initialised'])}")
    return (*lines, *begun["remarks"])
