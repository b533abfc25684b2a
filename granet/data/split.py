"""Holding out a validation split, so that the test set is left alone until the end."""

from __future__ import annotations

import torch

from granet.data.dataset import Examples
from granet.errors import DataError
from granet.randomness import generator


def hold_out(examples: Examples, fraction: float, *, classes: tuple[str, ...], seed: int) -> tuple[Examples, Examples]:
    """Split ``examples`` into what is left for training and what is held out for validation.

    Stratified: of each class's n examples ``round(fraction * n)`` are held out, though at least one. Which ones
    depends on nothing but ``seed`` and the labels. Both parts keep the order of ``examples``.

    Args:
        examples: the training data as published.
        fraction: the share to hold out, in (0, 1).
        classes: class names, for the error message.
        seed: keys the draw.

    Raises:
        DataError: a class would be left without an example on one of the two sides.
    """
    held = torch.zeros(len(examples), dtype=torch.bool)
    for label, name in enumerate(classes):
        members = torch.nonzero(examples.labels == label).flatten()
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise DataError(
                f"class {name!r} has too few training images to hold some out for validation",
                got=f"{len(members)} images and a validation fraction of {fraction:g}",
                remedy="add images, or ask for a smaller validation fraction",
            )
        shuffled = torch.randperm(len(members), generator=generator(seed, "validation", label))
        held[members[shuffled[:count]]] = True
    return examples.select(torch.nonzero(~held).flatten()), examples.select(torch.nonzero(held).flatten())
