"""A network whose gradients are averaged over the ranks, while they are computed, by DistributedDataParallel.

Gradients travel in buckets, and how a sum over many ranks is rounded depends on where in its bucket a gradient lies.
DistributedDataParallel fills its buckets anew after the first backward pass of a process, in the order in which the
gradients came. A run that goes on in a new process would so round its first step unlike one that never stopped. So
each process makes one pass before its first step of which nothing remains but that order, which is a property of the
network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from granet.errors import ModelError, listing
from granet.training.compiling import compiled


class Reduced:
    """See ``granet.training.distributed.world.Network``."""

    def __init__(
        self,
        model: nn.Module,
        group: dist.ProcessGroup,
        reaching: Callable[[], AbstractContextManager[None]],
        *,
        compile: bool,
    ) -> None:
        self._model, self._reaching = model, reaching
        with reaching():
            self._parallel = DistributedDataParallel(
                _Compiled(model) if compile else model, process_group=group, gradient_as_bucket_view=True
            )

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Network``."""
        logits: Tensor = self._parallel(images)
        return logits

    @contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        """See ``Network``."""
        with self._reaching(), nullcontext() if last else self._parallel.no_sync():
            yield

    def settle(self, images: Tensor, number_format: Callable[[], AbstractContextManager[object]]) -> None:
        """Makes the pass that settles the buckets. Weights and buffers are as before it.

        Raises:
            ModelError: a parameter that the logits do not depend on, for which the other ranks would wait.
        """
        buffers = [(buffer, buffer.detach().clone()) for buffer in self._model.buffers()]
        training = self._model.training
        self._model.train()
        with self.part(last=True):
            with number_format():
                logits = self(torch.zeros_like(images))
            with warnings.catch_warnings():
                # Once, of strides of dimensions of size 1, such as those of 1 x 1 convolutions, which mean nothing.
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
                logits.float().sum().backward()  # type: ignore[no-untyped-call]
        trained = [(name, weight) for name, weight in self._model.named_parameters() if weight.requires_grad]
        idle = [name for name, weight in trained if weight.grad is None]
        self._model.zero_grad(set_to_none=True)
        self._model.train(training)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        if idle:
            error = ModelError(
                "the logits do not depend on this parameter, so that several ranks cannot train together",
                where=listing(idle),
                remedy="leave it out of the network, or set its requires_grad to False",
            )
            error.everywhere = True
            raise error


class _Compiled(nn.Module):
    """A network that is called through torch.compile."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._forward = compiled(model)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self._forward(images)
