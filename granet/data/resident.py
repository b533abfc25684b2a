"""Batches of images that live on the device, gathered and augmented there as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from granet.data.augment import Augmentation, CropWindows, apply, draw_batch
from granet.data.dataset import Arrays, Dataset
from granet.randomness import generator


class ResidentImages:
    """The images of a dataset whose splits are all :class:`Arrays`; see :class:`granet.data.pipeline.BatchImages`.

    A step costs a small copy to the device, the draws of the augmentation, and no work per example.

    Args:
        dataset: whose images; a split moves to the device when it is first wanted.
        device: where the batches are wanted.
        seed, augment: what is drawn, keyed by (seed, "augment", epoch, step).
        batch_size: examples per training step, of all ranks together.
        share: the part of each training batch that this rank computes.
    """

    def __init__(
        self, dataset: Dataset, device: torch.device, *, seed: int, augment: Augmentation, batch_size: int, share: slice
    ) -> None:
        self._dataset, self._device = dataset, device
        self._seed, self._augment = seed, augment
        self._batch_size, self._share = batch_size, share
        self._on_device: dict[str, Tensor] = {}

    def training(self, order: Tensor, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield augmented batches of the training split."""
        return self._training(order.to(self._device), epoch, start)

    def _training(self, order: Tensor, epoch: int, start: int) -> Iterator[Tensor]:
        images, size = self._images("train"), self._dataset.image_size
        for step, batch in enumerate(order, start):
            # Drawn for the batch of all ranks together, so that they see what a single process would.
            draws = draw_batch(
                self._augment, generator(self._seed, "augment", epoch, step), self._batch_size, size, size
            )
            draws = CropWindows(draws.boxes[self._share], draws.flips[self._share])
            yield apply(self._augment, images.index_select(0, batch), draws)

    def evaluation(self, split: str, parts: Sequence[range]) -> Iterator[Tensor]:
        """Yield the examples of each part of a split, without augmentation."""
        images = self._images(split)
        return (images[part.start : part.stop] for part in parts)

    def _images(self, split: str) -> Tensor:
        if split not in self._on_device:
            self._on_device[split] = cast(Arrays, self._dataset.split(split)).images.to(self._device)
        return self._on_device[split]
