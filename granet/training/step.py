"""One optimizer step in two halves: the gradients of a batch, and what the optimizer makes of them.

The first half leaves weights, masks and optimizer state alone. So between the two is the place to look at the sums of
the epoch, to wait for whoever still reads the weights, and to take back a step that cannot be finished. After both,
whoever trains lets the sparsifier take its own step, which is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from granet.randomness import key
from granet.training.device import seed
from granet.training.evaluate import autocast
from granet.training.run import EpochSums, Run


def images_laid_out(images: Tensor) -> Tensor:
    """``images``, [examples, channels, height, width]; on a GPU channels last, as its convolutions like it."""
    return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images


class Steps:
    """Takes the optimizer steps of a run at the learning rate that its optimizer has; see the module."""

    def __init__(self, run: Run) -> None:
        """For a run whose weights are all in place.

        Raises:
            ModelError: several ranks cannot train this network together.
        """
        settings = run.recipe.training
        number_format = partial(autocast, run.device, run.precision)
        self._run = run
        self._network = run.world.network(run.model, self._images, number_format, compile=settings.compile)
        self._loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        self._undo: Callable[[], None] | None = None

    def backward(self, images: Tensor, labels: Tensor) -> None:
        """The first half: leaves the gradients of the batch of all ranks, and adds to the sums of the epoch.

        Buffers change too, as in any forward pass of training. Nothing waits for the device.

        Args:
            images: those of this rank, from ``images_laid_out``.
            labels: of these images, int64 [examples].

        Raises:
            ModelError: the compiler cannot do this network.
            TrainingError: the ranks do not have the same masks.
            LostRankError: another rank is gone.
        """
        run = self._run
        # Dropout and the like draw from torch's global stream; seeding it by the step makes them resumable.
        seed(run.device, key(run.recipe.seed, "forward", run.step, *run.world.purpose))
        self._undo = run.world.mark(self._way_back)
        run.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(*(batch.chunk(run.recipe.training.accumulate) for batch in (images, labels)), strict=True))
        for number, (part, answers) in enumerate(parts, 1):
            with self._network.part(last=number == len(parts)):
                with autocast(run.device, run.precision):
                    logits = self._network(part)
                    loss = self._loss(logits, answers)
                run.scaler.scale(loss * (len(answers) / len(labels))).backward()
            correct = (logits.detach().argmax(1) == answers).sum()
            sums = run.world.totals(loss.detach().double() * len(answers), correct, run.sparsifier.masks)
            run.sums.add(*sums, len(answers) * run.world.ranks.size)

    def optimize(self) -> None:
        """The second half: changes weights and optimizer state by the gradients, and there is no way back."""
        self._undo = None
        self._run.scaler.step(self._run.optimizer)
        self._run.scaler.update()

    def undo(self) -> None:
        """Takes back a first half that no second one followed, on the rank that saves though another was lost."""
        if self._undo is not None:
            self._undo()

    def _way_back(self) -> Callable[[], None]:
        """What takes back that which a step changes before it is through: buffers and sums."""
        run = self._run
        buffers = [(buffer, buffer.detach().clone()) for buffer in run.model.buffers()]
        sums = EpochSums(run.sums.loss.clone(), run.sums.correct.clone(), run.sums.examples)

        def undo() -> None:
            run.sums = sums
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

        return undo

    def _images(self) -> Tensor:
        """Blank images, as many as this rank computes at a time."""
        run, settings = self._run, self._run.recipe.training
        count, side = settings.batch_size // run.world.ranks.size // settings.accumulate, run.dataset.image_size
        return images_laid_out(torch.zeros(max(count, 1), run.dataset.channels, side, side, device=run.device))
