"""The pipeline for data that lives on the device: whole batches are gathered, augmented and normalised there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from granet.data.augment import Augmentation, CropWindows, apply, draw
from granet.data.dataset import Arrays, Dataset
from granet.data.normalise import Normalise
from granet.data.order import training_order
from granet.data.ranks import ALONE, Ranks
from granet.randomness import generator


class ResidentPipeline:
    """Batches of a dataset whose splits are all :class:`Arrays`.

    Per step there are two small copies to the device, the draws of the augmentation, and no work per example.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        augment: Augmentation,
        ranks: Ranks = ALONE,
    ) -> None:
        self._dataset, self._batch_size, self._device = dataset, batch_size, device
        self._seed, self._augment = seed, augment
        self._ranks, self._share = ranks, ranks.share(batch_size)
        self._normalise = Normalise(dataset.mean, dataset.std, device)
        self._on_device: dict[str, Arrays] = {}
        self.train_examples = len(dataset.train)
        self.steps_per_epoch = self.train_examples // batch_size

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`granet.data.pipeline.Pipeline`; draws are keyed by (seed, "augment", epoch, step)."""
        order = training_order(self.train_examples, self._batch_size, seed=self._seed, epoch=epoch, start=start)
        return self._batches(order.to(self._device), epoch, start)

    def _batches(self, order: Tensor, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        train, size = self._split("train"), self._dataset.image_size
        for step, batch in enumerate(order, start):
            # Drawn for the whole batch, whatever part of it is ours: all ranks together see what a single one would.
            draws = draw(self._augment, generator(self._seed, "augment", epoch, step), len(batch), size, size)
            chosen = batch
            if self._ranks.size > 1:
                draws, chosen = CropWindows(draws.boxes[self._share], draws.flips[self._share]), batch[self._share]
            images = apply(self._augment, train.images.index_select(0, chosen), draws)
            yield self._normalise(images), train.labels.index_select(0, chosen)

    def evaluation(self, split: str, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`granet.data.pipeline.Pipeline`."""
        examples = self._split(split)
        for number, start in enumerate(range(0, len(examples), batch_size)):
            if not self._ranks.deals(number):
                continue
            part = slice(start, start + batch_size)
            yield self._normalise(examples.images[part]), examples.labels[part]

    def _split(self, name: str) -> Arrays:
        """A split on the device; it moves there when it is first wanted."""
        if name not in self._on_device:
            examples = cast(Arrays, self._dataset.split(name))
            self._on_device[name] = Arrays(examples.images.to(self._device), examples.labels.to(self._device))
        return self._on_device[name]
