"""Lineage: which checkpoints the weights of a rewound run come from, noted in its metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from granet.checkpoint import Checkpoint
from granet.masks.mapping import density
from granet.recipe import Recipe


def ancestor(parent: Checkpoint, content_hash: str) -> dict[str, Any]:
    """Return what a child notes of its parent: content hash, recipe, method, step, density, ``course`` and accuracies.

    ``mode`` and ``round`` are present when the parent was itself rewound, accuracies (0 to 1) when they are known.
    """
    noted: dict[str, Any] = {
        "hash": content_hash,
        "recipe": parent.recipe.name,
        "method": parent.recipe.method.name,
        "step": parent.step,
        "density": density(parent.masks),
        "course": settings_hash(parent.recipe),
    }
    if parent.recipe.rewind is not None:
        noted |= {"mode": parent.recipe.rewind.mode, "round": parent.recipe.rewind.round}
    for split, key in (("best", "validation_accuracy"), ("test", "test_accuracy")):
        score = parent.metrics.get(split)
        if isinstance(score, dict) and isinstance(score.get("accuracy"), int | float):
            noted[key] = score["accuracy"]
    return noted


def settings_hash(recipe: Recipe) -> str:
    """Return a hash of training settings, 64 hexadecimal digits, equal for runs that differ only in their seed.

    It covers all settings except the seed, name, description and paths.
    """
    settings = recipe.as_dict()
    for key in ("seed", "name", "description"):
        settings.pop(key, None)
    settings["data"].pop("directory", None)
    rewind = settings.get("rewind", {})
    for key in ("parent", "parent_hash", "point", "point_hash"):
        rewind.pop(key, None)
    if rewind.get("mode") == "finetune":
        del rewind["start"]  # where the training before it ended, which may have been its best epoch
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def ancestors(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ancestors noted in the metrics of a checkpoint, oldest first, and only well-formed notes."""
    noted = metrics.get("lineage")
    return [note for note in noted if isinstance(note, dict)] if isinstance(noted, list) else []
