"""Loss and accuracy of a network over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granet.data.memory_format import image_layout
from granet.errors import DataError, Interrupted
from granet.models.failures import network_errors
from granet.training.device import Precision, autocast
from granet.training.distributed.world import SINGLE_PROCESS, World


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, share of correct answers in [0, 1], and over how many examples."""

    loss: float
    accuracy: float
    examples: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision = "fp32",
    memory_format: torch.memory_format = torch.preserve_format,
    stop: Callable[[], bool] = lambda: False,
    world: World = SINGLE_PROCESS,
    rounds: int = 0,
) -> Evaluation:
    """Compute mean loss and accuracy of the model, in evaluation mode, over batches; its mode is restored afterwards.

    Sums are added in the order of the batches, whichever rank computed them: they are equal on every rank, and for any
    number of ranks.

    Args:
        model: maps images to logits; the same on every rank.
        batches: images and labels of this rank, see ``granet.data.Pipeline.evaluation``.
        precision: number format of the forward pass.
        memory_format: of the images, see ``image_layout``.
        stop: asked before every batch, equally often by every rank.
        world: the ranks that share the work.
        rounds: the largest number of batches of a rank; needed for several ranks.

    Raises:
        DataError: no batches.
        ModelError: the network fails, or returns something else than logits.
        Interrupted: ``stop`` returned True.
    """
    training = model.training
    model.eval()
    rows: list[tuple[Tensor, Tensor, int]] = []
    try:
        for images, labels in batches:
            if stop():
                raise Interrupted("stopped while evaluating")
            with network_errors("the network fails in evaluation", where=type(model).__name__, network=model):
                with autocast(images.device, precision):
                    logits = model(image_layout(images, memory_format))
                loss = F.cross_entropy(logits.float(), labels, reduction="sum").double()
                rows.append((loss, (logits.argmax(1) == labels).sum(), len(labels)))
        for _ in range(rounds - len(rows)):
            if stop():
                raise Interrupted("stopped while evaluating")
    finally:
        model.train(training)
    total, correct, examples = _in_order(world.all_gather(_table(rows, max(rounds, len(rows)), model)))
    if not examples:
        raise DataError("there is nothing to evaluate", expected="a split with at least one example")
    return Evaluation(total / examples, correct / examples, examples)


def _table(rows: list[tuple[Tensor, Tensor, int]], length: int, model: nn.Module) -> Tensor:
    """Return loss, correct answers and number of examples of each batch, float64 [length, 3], padded with zeros."""
    like = rows[0][0] if rows else next(model.parameters(), torch.empty(0))
    table = torch.zeros(length, 3, dtype=torch.float64, device=like.device)
    if rows:
        losses, answers, counts = zip(*rows, strict=True)
        table[: len(rows), 0] = torch.stack(losses)
        table[: len(rows), 1] = torch.stack(answers).double()
        table[: len(rows), 2] = torch.tensor(counts, dtype=torch.float64)
    return table


def _in_order(tables: Tensor) -> tuple[float, int, int]:
    """Return the sums over the tables of all ranks, [ranks, rounds, 3], added in the order of one rank."""
    loss, correct, examples = 0.0, 0, 0
    for more in tables.transpose(0, 1).reshape(-1, 3).tolist():
        loss, correct, examples = loss + more[0], correct + int(more[1]), examples + int(more[2])
    return loss, correct, examples
