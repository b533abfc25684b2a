"""From a dataset to batches on a device: which examples each step sees, and how pixels become floats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from granet.data.augment import AUGMENTATIONS, Augmentation
from granet.data.dataset import Arrays, Dataset
from granet.data.ranks import ALONE, Ranks
from granet.data.resident import ResidentImages
from granet.data.streaming import StreamingImages
from granet.errors import UnknownNameError, UsageError
from granet.randomness import generator

EVALUATED = 256
"""Images in a batch of an evaluation."""

_SINGLE_THREADED = (1 << 15) - 1
"""The most numbers that torch processes without other threads. Those would busy-wait for the next call, on processors
that the workers of a streaming pipeline need; so many numbers also fit in a processor's cache."""


class BatchImages(Protocol):
    """The images of a dataset's splits as uint8 batches [B, C, H, W] on the device."""

    def training(self, order: Tensor, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield augmented batches of the training split.

        Args:
            order: int64 [steps, B] on the CPU, the examples of each batch.
            epoch: the epoch whose draws augment them.
            start: the step of the epoch that the first batch belongs to.
        """
        ...

    def evaluation(self, split: str, parts: Sequence[range]) -> Iterator[Tensor]:
        """Yield the examples of each part of a split, without augmentation."""
        ...


class Pipeline:
    """Batches for training and evaluation.

    Images are float32 [B, C, H, W], normalised; labels int64 [B]; both on the device. The batches of an epoch depend
    on nothing but the dataset, the seed, the batch size and the augmentation: not on earlier epochs, on the step at
    which the epoch was entered, on the number of workers or, up to the rounding of arithmetic, on the device. Each of
    several ranks gets its share of every batch, with the order and the draws of a single process.

    Attributes:
        train_examples: examples in the training split.
        steps_per_epoch: whole batches in an epoch; the remaining examples are others in every epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        images: BatchImages,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._dataset, self._images, self._batch_size = dataset, images, batch_size
        self._device, self._seed, self._ranks = device, seed, ranks
        self._normalise = Normalise(dataset.mean, dataset.std, device)
        self.train_examples = len(dataset.train)
        self.steps_per_epoch = self.train_examples // batch_size

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches of an epoch, augmented, in the order of that epoch.

        Iterators over files share the worker processes: an iterator ends (RuntimeError) once a later one has begun.

        Args:
            epoch: from 0 on.
            start: the step of the epoch to begin at; what follows equals the tail of the whole epoch, bit for bit.

        Raises:
            UsageError: there is no such epoch or step.
            DataError: an image cannot be read.
        """
        order = training_order(self.train_examples, self._batch_size, seed=self._seed, epoch=epoch, start=start)
        order = order[:, self._ranks.share(self._batch_size)]
        labels = self._dataset.train.labels[order].to(self._device)
        return self._labelled(self._images.training(order, epoch, start), labels)

    def evaluation(self, split: str, batch_size: int = EVALUATED) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every example of a split once, in order, without augmentation; the last batch may be smaller.

        Several ranks get whole batches in turn, so that each batch is computed as by a single process.

        Raises:
            UnknownNameError: there is no such split.
            DataError: an image cannot be read.
        """
        labels = self._dataset.split(split).labels
        starts = range(0, len(labels), batch_size)[self._ranks.rank :: self._ranks.size]
        parts = [range(len(labels))[start : start + batch_size] for start in starts]
        labels = labels.to(self._device)
        return self._labelled(self._images.evaluation(split, parts), [labels[p.start : p.stop] for p in parts])

    def _labelled(
        self, batches: Iterator[Tensor], labels: Sequence[Tensor] | Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for images, batch_labels in zip(batches, labels, strict=True):
            yield self._normalise(images), batch_labels


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
    """Return the pipeline for a dataset: over images on the device if they are in memory, else over files.

    Args:
        dataset: what to draw from.
        batch_size: examples per training step, of all ranks together.
        device: where the batches are wanted.
        seed: keys order and augmentation.
        augment: one of ``AUGMENTATIONS``; see :func:`granet.data.augment.draw_batch`.
        workers: processes that decode files, 0 for none but this one. Data in memory needs none and starts none. With
            workers a script must keep its work under ``if __name__ == "__main__":``, as for any multiprocessing.
        ranks: this rank, of how many.

    Raises:
        UnknownNameError: there is no such augmentation.
        UsageError: a number is out of range, or a batch is larger than the training split.
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
    share = ranks.share(batch_size)
    images: BatchImages
    if isinstance(dataset.train, Arrays):
        images = ResidentImages(dataset, device, seed=seed, augment=augment, batch_size=batch_size, share=share)
    else:
        images = StreamingImages(
            dataset, device, seed=seed, augment=augment, batch_size=batch_size, share=share, workers=workers
        )
    return Pipeline(dataset, images, batch_size=batch_size, device=device, seed=seed, ranks=ranks)


def training_order(examples: int, batch_size: int, *, seed: int, epoch: int, start: int) -> Tensor:
    """Return the examples of an epoch, batch by batch, from step ``start`` on.

    A permutation keyed by (seed, "order", epoch), cut into whole batches. The examples that do not fill a last
    batch are left out; they are others in every epoch.

    Returns:
        int64 [steps, batch_size] on the CPU; no index occurs twice.

    Raises:
        UsageError: there is no such epoch, or no such step in it.
    """
    steps = examples // batch_size
    if epoch < 0 or not 0 <= start <= steps:
        raise UsageError(
            "no such position in the training data",
            got=f"epoch {epoch}, step {start}",
            expected=f"an epoch from 0 on, and a step from 0 to {steps}",
        )
    permutation = torch.randperm(examples, generator=generator(seed, "order", epoch))
    return permutation[: steps * batch_size].view(steps, batch_size)[start:]


class Normalise:
    """Turn uint8 [B, C, H, W] into float32 ``(x / 255 - mean) / std``, per channel, on ``device``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        # In units of pixels, so that a batch is read and written twice instead of three times.
        self._mean = 255 * torch.tensor(mean, device=device)[:, None, None]
        self._scale = 1 / (255 * torch.tensor(std, device=device)[:, None, None])

    def __call__(self, images: Tensor) -> Tensor:
        """Return the normalised batch, in new memory of the same layout."""
        pixels = images.permute(0, 2, 3, 1)
        if images.device.type == "cpu" and pixels.is_contiguous():
            return self._by_rows(pixels).permute(0, 3, 1, 2)
        return images.float().sub_(self._mean).mul_(self._scale)

    def _by_rows(self, pixels: Tensor) -> Tensor:
        """Normalise [B, H, W, C], whose channels lie next to each other, a few rows of pixels at a time."""
        width = pixels.shape[2]
        mean, scale = self._mean.flatten().repeat(width), self._scale.flatten().repeat(width)
        normalised = torch.empty(pixels.shape)
        rows = max(1, _SINGLE_THREADED // len(mean))
        sources, targets = (torch.split(part.view(-1, len(mean)), rows) for part in (pixels, normalised))
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source).sub_(mean).mul_(scale)
        return normalised
