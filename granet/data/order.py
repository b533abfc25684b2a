"""In which order training sees its examples: the same in both pipelines, on every device, after every resume."""

from __future__ import annotations

import torch
from torch import Tensor

from granet.errors import UsageError
from granet.randomness import generator


def training_order(examples: int, batch_size: int, *, seed: int, epoch: int, start: int) -> Tensor:
    """The examples of an epoch, batch by batch, from step ``start`` on.

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
