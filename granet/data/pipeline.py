"""From a dataset to batches on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from granet.data.augment import AUGMENTATIONS, Augmentation
from granet.data.dataset import Arrays, Dataset
from granet.data.ranks import ALONE, Ranks
from granet.data.resident import ResidentPipeline
from granet.data.streaming import StreamingPipeline
from granet.errors import UnknownNameError, UsageError

EVALUATED = 256
"""Images in a batch of an evaluation."""


class Pipeline(Protocol):
    """Where training and evaluation get their batches from.

    Images are float32 [B, C, H, W], normalised; labels int64 [B]; both on the device. The batches of an epoch depend
    on nothing but the dataset, the seed, the batch size and the augmentation: not on the epochs before, on where
    the epoch was started, on the number of workers or, up to the rounding of arithmetic, on the device. Of several
    ranks each has its share of every batch, with the same order and the same draws as a single one.
    """

    steps_per_epoch: int
    """Whole batches in an epoch; the rest of the examples has its turn in other epochs."""
    train_examples: int
    """Examples in the training split."""

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch, from 0 on, augmented, in the order of that epoch.

        Args:
            epoch: from 0 on.
            start: the step of the epoch to begin at; what follows equals the tail of the whole epoch, bit for bit.

        Raises:
            UsageError: there is no such epoch or step.
            DataError: an image cannot be read.
        """
        ...

    def evaluation(self, split: str, batch_size: int = EVALUATED) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example of a split once, in order, without augmentation; the last batch may be smaller.

        Several ranks are dealt whole batches in turn, so that each batch is computed as by a single one.

        Raises:
            UnknownNameError: no such split.
            DataError: an image cannot be read.
        """
        ...


def make_pipeline(
    dataset: Dataset,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
    augment: Augmentation,
    workers: int = 0,
    ranks: Ranks = ALONE,
) -> Pipeline:
    """The pipeline that suits a dataset: resident for data in memory, streaming for files.

    Args:
        dataset: what to draw from.
        batch_size: examples per training step, of all ranks together.
        device: where the batches are wanted.
        seed: keys order and augmentation.
        augment: one of ``AUGMENTATIONS``; see :func:`granet.data.augment.draw`.
        workers: processes that decode files, 0 for none but this one. Data in memory needs none and starts none. With
            workers a script must keep its work under ``if __name__ == "__main__":``, as for any multiprocessing.
        ranks: whose share to make.

    Raises:
        UnknownNameError: no such augmentation.
        UsageError: a number out of range, or a batch larger than the training split.
    """
    if augment not in AUGMENTATIONS:
        raise UnknownNameError("augmentation", augment, AUGMENTATIONS)
    if not 1 <= batch_size <= len(dataset.train):
        raise UsageError(
            "not a batch size for this dataset",
            where=dataset.name,
            got=batch_size,
            expected=f"1 to {len(dataset.train)}, the number of training examples",
        )
    if workers < 0:
        raise UsageError("workers is a number of processes", got=workers, expected="at least 0")
    if isinstance(dataset.train, Arrays):
        return ResidentPipeline(dataset, batch_size=batch_size, device=device, seed=seed, augment=augment, ranks=ranks)
    return StreamingPipeline(
        dataset, batch_size=batch_size, device=device, seed=seed, augment=augment, workers=workers, ranks=ranks
    )
