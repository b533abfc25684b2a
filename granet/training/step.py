"""The training step: the one place where training takes a batch through the network.

The training loop, the timing of ``granet plan`` and the cells of ``granet plasticity`` all train by ``TrainingStep``.
The loop calls the parts one by one, to check the numbers between them:

1. ``backward``: forward and backward pass of the batch, in parts where gradients are accumulated.
2. ``optimize``: the optimizer step, at the learning rate that the schedule has at this step.
3. ``update_topology``: counts the step and changes the topology when an update is due.

Weights, masks and optimizer state change in 2 and 3 only, so a step that fails in 1 can be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from granet.data.memory_format import image_layout
from granet.models import extra_state
from granet.models.failures import network_errors
from granet.randomness import key
from granet.recipe.learning_rate import learning_rate
from granet.topology import TopologyUpdate
from granet.training import trial
from granet.training.device import autocast, seed
from granet.training.run import EpochSums, Run


class TrainingStep:
    """Trains a run by one batch at a time; see the module."""

    def __init__(self, run: Run, *, compile: bool | None = None) -> None:
        """Wrap the network of ``run``, whose weights are in place, for its ranks and for torch.compile.

        Args:
            run: changed by every step.
            compile: whether to use torch.compile; None is the recipe's setting.

        Raises:
            ModelError: several ranks cannot train this network together.
        """
        settings = run.recipe.training
        self._run = run
        self._network = run.world.data_parallel(
            run.model,
            self._blank_images,
            partial(autocast, run.device, run.precision),
            compile=settings.compile if compile is None else compile,
        )
        self._loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        self._stateful = extra_state.stateful(run.model)
        self._undo: Callable[[], None] | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> TopologyUpdate | None:
        """Take all three parts of a step; return the change of the topology, None when none was due.

        Raises:
            ModelError, TrainingError, LostRankError: see ``backward``.
        """
        self.backward(images, labels)
        self.optimize()
        return self.update_topology()

    def backward(self, images: Tensor, labels: Tensor) -> None:
        """Compute the gradients of the batch of all ranks, and add its loss and accuracy to the sums of the epoch.

        Buffers change too, as in any forward pass of training. Nothing waits for the device.

        Args:
            images: this rank's share of the batch, float [examples, channels, height, width].
            labels: of these images, int64 [examples].

        Raises:
            ModelError: the network fails, or the compiler cannot do it.
            TrainingError: the ranks do not have the same masks.
            LostRankError: another rank is gone.
        """
        run, images = self._run, image_layout(images, self._run.memory_format)
        # Dropout and the like draw from torch's global stream; seeding it by the step makes them resumable.
        seed(run.device, key(run.recipe.seed, "forward", run.step, *run.world.rank_key))
        self._undo = self._snapshot() if run.world.undoes_lost_steps else None
        run.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(*(batch.chunk(run.recipe.training.accumulate) for batch in (images, labels)), strict=True))
        for number, (part, part_labels) in enumerate(parts, 1):
            with (
                network_errors("the network fails in training", where=run.recipe.model.name, network=run.model),
                run.world.gradient_sync(self._network, last=number == len(parts)),
            ):
                with autocast(run.device, run.precision):
                    logits = self._network(part)
                    loss = self._loss(logits, part_labels)
                run.scaler.scale(loss * (len(part_labels) / len(labels))).backward()
            correct = (logits.detach().argmax(1) == part_labels).sum()
            sums = run.world.sum_metrics(loss.detach().double() * len(part_labels), correct, run.sparsifier.masks)
            run.sums.add(*sums, len(part_labels) * run.world.ranks.size)

    def optimize(self) -> None:
        """Change weights and optimizer state by the gradients; ``undo`` does nothing after this."""
        run, self._undo = self._run, None
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.recipe, run.step, run.pipeline.steps_per_epoch)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        extra_state.settle(self._stateful)

    def update_topology(self) -> TopologyUpdate | None:
        """Count the step; return the change of the topology, None when none was due.

        Raises:
            ModelError: an update needs a gradient that the loss of this step did not give.
        """
        run, method = self._run, self._run.sparsifier.method
        step = run.step + 1
        due = method.due(step, run.total_steps) and method.needs_gradients(step, run.total_steps)
        if due or method.momentum_decay is not None:
            idle = {name for name, parameter in run.model.named_parameters() if parameter.grad is None}
            trial.check_reached(run.sparsifier, idle, run.recipe, where=f"{run.recipe.model.name}, step {step}")
        return run.sparsifier.step()

    def undo(self) -> None:
        """Undo a ``backward`` that no ``optimize`` followed, on the rank that saves though another was lost."""
        if self._undo is not None:
            self._undo()

    def _snapshot(self) -> Callable[[], None]:
        """Return a function that restores buffers, extra state and epoch sums as they are now."""
        run = self._run
        buffers = [(buffer, buffer.detach().clone()) for buffer in run.model.buffers()]
        extra = extra_state.collect(run.model)
        sums = EpochSums(run.sums.loss.clone(), run.sums.correct.clone(), run.sums.examples)

        def undo() -> None:
            run.sums = sums
            extra_state.load(run.model, extra)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

        return undo

    def _blank_images(self) -> Tensor:
        """Zeros in the shape and layout of the images that this rank computes at a time."""
        run, settings = self._run, self._run.recipe.training
        count, side = settings.batch_size // run.world.ranks.size // settings.accumulate, run.dataset.image_size
        images = torch.zeros(max(count, 1), run.dataset.channels, side, side, device=run.device)
        return image_layout(images, run.memory_format)
