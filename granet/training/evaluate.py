"""Loss and accuracy of a network over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granet.errors import DataError, Interrupted
from granet.training.device import Precision


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, share of correct answers in [0, 1], and over how many examples."""

    loss: float
    accuracy: float
    examples: int


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of ``precision``; one that does nothing for fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision = "fp32",
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Runs the model, in evaluation mode, over batches of images and labels; its mode is restored afterwards.

    Raises:
        DataError: no batches.
        Interrupted: ``stop`` answered True between two batches.
    """
    training = model.training
    model.eval()
    loss, correct, examples = None, None, 0
    try:
        for images, labels in batches:
            if stop():
                raise Interrupted("stopped while evaluating")
            with autocast(images.device, precision):
                logits = model(images)
            batch_loss = F.cross_entropy(logits.float(), labels, reduction="sum").double()
            batch_correct = (logits.argmax(1) == labels).sum()
            loss = batch_loss if loss is None else loss + batch_loss
            correct = batch_correct if correct is None else correct + batch_correct
            examples += len(labels)
    finally:
        model.train(training)
    if loss is None or correct is None:
        raise DataError("there is nothing to evaluate", expected="a split with at least one example")
    return Evaluation(float(loss) / examples, int(correct) / examples, examples)
