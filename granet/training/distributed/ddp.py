"""A network whose gradients DistributedDataParallel averages over the ranks while they are computed.

Gradients travel in buckets, and how a sum over many ranks is rounded depends on where in its bucket a gradient lies.
DistributedDataParallel fills its buckets anew after the first backward pass of a process, in the order in which the
gradients came. A resumed run would therefore round its first step unlike one that never stopped. So each process makes
one pass before its first step, of which only that order remains; it is a property of the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from granet.errors import ModelError, listing
from granet.training.compiling import CompiledNetwork


def data_parallel(model: nn.Module, group: dist.ProcessGroup, *, compile: bool) -> DistributedDataParallel:
    """Return ``model`` with gradients averaged over ``group``, perhaps through torch.compile."""
    network = CompiledNetwork(model) if compile else model
    return DistributedDataParallel(network, process_group=group, gradient_as_bucket_view=True)


def settle_buckets(
    network: DistributedDataParallel,
    model: nn.Module,
    images: Tensor,
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    """Make the pass that settles the order of the buckets. Weights, buffers and mode are as before it.

    Raises:
        ModelError: the logits do not depend on a parameter, for whose gradient the other ranks would wait.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    training = model.training
    model.train()
    with autocast():
        logits = network(torch.zeros_like(images))
    with warnings.catch_warnings():
        # Once, of strides of dimensions of size 1, such as those of 1 x 1 convolutions, which mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        logits.float().sum().backward()
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    idle = [name for name, weight in trained if weight.grad is None]
    model.zero_grad(set_to_none=True)
    model.train(training)
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
