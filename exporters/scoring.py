"""Evaluate an exported file on a split of a dataset, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.examples import fits, labelled_batches
from exporters.runtime import OnnxSession
from granet.checkpoint import Network
from granet.data import Dataset
from granet.errors import DataError, ModelError, listing


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats, share of correct answers in [0, 1], and the number of examples."""

    loss: float
    accuracy: float
    examples: int


def score(session: OnnxSession, network: Network, dataset: Dataset, split: str, *, batch_size: int = 256) -> Score:
    """Return loss and accuracy over all examples of a split, without augmentation, normalised as in training.

    Raises:
        DataError: the dataset has other classes or images, or no examples.
        UnknownNameError: no such split.
        ModelError: the model does not take images, or does not return a logit for each class.
    """
    loss, correct, examples = 0.0, 0, 0
    for logits, labels in labelled_logits(session, network, dataset, split, batch_size=batch_size):
        loss += float(F.cross_entropy(logits, labels, reduction="sum").double())
        correct += int((logits.argmax(1) == labels).sum())
        examples += len(labels)
    if not examples:
        raise DataError("there is nothing to evaluate", expected="a split with at least one example")
    return Score(loss / examples, correct / examples, examples)


def labelled_logits(
    session: OnnxSession, network: Network, dataset: Dataset, split: str, *, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits, float32 [B, classes], and labels, int64 [B], of each batch; arguments and errors as for score."""
    if not fits(dataset, network) or dataset.classes != network.classes:
        raise DataError(
            "the data are not of the kind that the network was trained on",
            where=dataset.name,
            got=_describe(dataset.classes, dataset.channels, dataset.image_size),
            expected=_describe(network.classes, network.in_channels, network.image_size),
        )
    for images, labels in labelled_batches(dataset, network, split, batch_size):
        logits = torch.from_numpy(session.run([images.contiguous().numpy()])[0])
        if logits.shape != (len(labels), len(network.classes)):
            raise ModelError(
                "the model does not give one logit for each class",
                got=tuple(logits.shape),
                expected=(len(labels), len(network.classes)),
            )
        yield logits.float(), labels


def _describe(classes: tuple[str, ...], channels: int, size: int) -> str:
    return f"{channels} x {size} x {size} images of {len(classes)} classes ({listing(classes, 10)})"
