"""Loss and accuracy of a checkpoint on a split of a dataset, as ``granet eval`` reports them."""

from __future__ import annotations

from dataclasses import replace

import torch

from granet.checkpoint import Checkpoint
from granet.data import Dataset, make_pipeline
from granet.errors import DataError
from granet.models import from_checkpoint
from granet.training.device import resolve_precision, set_determinism
from granet.training.evaluate import Evaluation, evaluate
from granet.training.trial import Trial, placed


def score(
    checkpoint: Checkpoint,
    dataset: Dataset,
    split: str,
    *,
    device: torch.device,
    batch_size: int = 256,
    factory: str | None = None,
) -> Evaluation:
    """Compute loss and accuracy of the network in ``checkpoint`` over a split.

    Images are normalised as in training, whatever the dataset's own constants are, and the precision is that of
    training where the device has it, so that the result equals the figures of the run.

    ``batch_size`` changes speed and memory only. For ``factory`` see ``models.from_checkpoint``.

    Raises:
        DataError: the dataset has other classes, channels or image size.
        UnknownNameError: no such split.
        ModelError: the network cannot be built again.
    """
    network = checkpoint.network
    for what, mine, theirs in (
        ("classes", dataset.classes, network.classes),
        ("channels", dataset.channels, network.in_channels),
        ("image size", dataset.image_size, network.image_size),
    ):
        if mine != theirs:
            raise DataError(
                "the data are not of the kind that the network was trained on",
                where=f"{what} of {dataset.name}",
                got=_shown(mine),
                expected=_shown(theirs),
            )
    dataset = replace(dataset, mean=network.mean, std=network.std)
    pipeline = make_pipeline(
        dataset,
        batch_size=1,  # of training, which this is not
        device=device,
        seed=checkpoint.recipe.seed,
        augment="none",
        workers=checkpoint.recipe.data.workers,
    )
    settings = checkpoint.recipe.training
    asked = "fp32" if device.type == "cpu" and settings.precision == "fp16" else settings.precision
    set_determinism(deterministic=settings.deterministic)
    precision = resolve_precision(asked, device)
    trial = Trial.of(checkpoint.recipe, dataset, device, precision)
    model, trial = placed(from_checkpoint(checkpoint, factory=factory), trial, asked=settings.memory_format)
    batches = pipeline.evaluation(split, batch_size)
    return evaluate(model, batches, precision=precision, memory_format=trial.memory_format)


def _shown(value: object) -> object:
    """Few classes are named, many are counted and the first ones named."""
    if not isinstance(value, tuple):
        return value
    names = ", ".join(map(str, value[:10]))
    return names if len(value) <= 10 else f"{len(value)} classes, {names}, ..."
