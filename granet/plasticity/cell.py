"""One cell: a checkpoint is pruned in one go, perhaps regenerated, and trained on with fixed masks.

Pruning and training are those of a rewind: a cell is the fine-tuning of its checkpoint at the learning rate that the
schedule has there, so it restores optimizer slots too and continues in the order of the data. What is regenerated
between the two:

===========  =========================================================================  =================
kind         what happens after pruning                                                 density
===========  =========================================================================  =================
``none``     nothing                                                                    as pruned
``pruned``   each layer grows as many weights as it lost, at the largest gradients      of the checkpoint
``swap``     each layer drops a share of its smallest and grows as many, as GraNet does  as pruned
===========  =========================================================================  =================

``pruned`` is the regeneration of "the same number of connections as pruned" of the paper's section 3; ``swap`` is the
one that its method has, at no cost in weights. In both, positions that were just pruned or dropped may grow again, and
what pruning took restarts at zero with zero optimizer state, while a weight that ``swap`` drops and grows at once keeps
both. Gradients are dense, of the unpruned checkpoint, on the next batch of the training. Two things differ from
GraNet's code: counts are exact, and the gradient is always taken in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from granet import models
from granet.checkpoint import Checkpoint, load
from granet.data import Dataset
from granet.errors import CheckpointError, Interrupted, TrainingError
from granet.masks.mapping import Masks, active, size
from granet.plasticity.grid import Job
from granet.plasticity.results import Cell
from granet.rewinding.start_state import start_state
from granet.topology import grow, swap
from granet.training.device import set_determinism
from granet.training.evaluate import Evaluation, evaluate
from granet.training.run import EpochSums, Run, begin, capture, restore
from granet.training.scoring import score
from granet.training.step import TrainingStep

SPLIT = "validation"
"""Split on which accuracies are measured; the test set is evaluated only once, at the end of a run."""


@dataclass(frozen=True)
class CellProgressed:
    """Some steps of a cell were done."""

    steps: int
    total: int


def baseline(job: Job, dataset: Dataset, device: torch.device, *, factory: str | None = None) -> Evaluation:
    """Evaluate the unpruned checkpoint on the validation split, as ``granet eval`` does."""
    state = _load(job)
    recipe = state.recipe.override({"data.workers": job.recipe.data.workers})
    return score(replace(state, recipe=recipe), dataset, SPLIT, device=device, factory=factory)


def measure(
    job: Job,
    before: Evaluation,
    dataset: Dataset,
    device: torch.device,
    *,
    watch: Callable[[CellProgressed], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Cell:
    """Prune, regenerate, train and evaluate; nothing is written. ``before`` is from ``baseline``.

    ``watch`` is called after every step; ``stop`` is asked before the first step and after every one.

    Raises:
        Interrupted: ``stop`` returned True; the cell has to be measured again.
        CheckpointError: the checkpoint changed, or the data are not its own.
        TrainingError: gradients to grow by are not finite.
    """
    if stop():
        raise _stopped(job)
    set_determinism(deterministic=job.recipe.training.deterministic)
    run, counts = prepare(job, dataset, device)
    pruned = _evaluate(run, stop)
    after = _evaluate(run, stop) if train(run, job, watch=watch, stop=stop) else None
    finite = after is not None and math.isfinite(after.loss)
    source = job.source
    return Cell(
        checkpoint=source.hash,
        step=source.step,
        epoch=source.step / source.steps_per_epoch,
        seed=source.recipe.seed,
        learning_rate=source.learning_rate,
        rate=job.rate,
        regeneration=job.regeneration,
        epochs=job.settings.epochs,
        scope=job.settings.scope,
        drop_fraction=job.settings.drop_fraction if job.regeneration == "swap" else None,
        parameters=size(run.sparsifier.masks),
        active_before=counts["before"],
        active_pruned=counts["pruned"],
        active=sum(active(run.sparsifier.masks).values()),
        before=before.accuracy,
        pruned=pruned.accuracy,
        after=after.accuracy if after is not None and finite else None,
        split=SPLIT,
        examples=before.examples,
        device=device.type,
        precision=run.precision,
    )


def prepare(job: Job, dataset: Dataset, device: torch.device) -> tuple[Run, dict[str, int]]:
    """Return the run that a cell trains, pruned and regenerated, and the active weights ``before`` and ``pruned``.

    Raises:
        CheckpointError, TrainingError: see ``measure``.
    """
    run = begin(job.recipe, dataset, device)
    parent, start = _load(job), start_state(capture(run))
    restore(run, start)
    before, pruned = active(parent.masks), active(run.sparsifier.masks)
    present = {name: before.get(name, run.sparsifier.masks[name].numel()) for name in pruned}
    if job.regeneration != "none":
        models.load_weights(run.model, parent.weights, parent.buffers, parent.extra_state)
        gradients = dense_gradients(run)
        restore(run, start)
        lost = {name: present[name] - count for name, count in pruned.items()}
        weights = {name: p.detach() for name, p in run.model.named_parameters() if name in pruned}
        share = None if job.regeneration == "pruned" else job.settings.drop_fraction
        masks = regenerated(weights, gradients, run.sparsifier.masks, lost, share=share)
        # Whatever is active and was not, is zero already, with its optimizer state.
        run.sparsifier.load_state_dict({**run.sparsifier.state_dict(), "masks": masks, "explored": masks})
    return run, {"before": sum(present.values()), "pruned": sum(pruned.values())}


def regenerated(
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    masks: Masks,
    lost: Mapping[str, int],
    *,
    share: float | None,
) -> Masks:
    """Return the masks of a pruned network after regeneration.

    Args:
        weights, masks: after pruning.
        gradients: dense; only magnitudes matter.
        lost: how many weights pruning took from each layer.
        share: None grows ``lost``; otherwise each layer drops this share, rounded up, and grows as many. A layer that
            is wholly active has nowhere to grow and is left alone.
    """
    if share is None:
        return grow(gradients, masks, lost)
    counts = {
        name: 0 if count == masks[name].numel() else min(math.ceil(share * count), count)
        for name, count in active(masks).items()
    }
    return swap(weights, gradients, masks, counts)


def dense_gradients(run: Run) -> dict[str, Tensor]:
    """Return the gradients in fp32 of the training loss on the next batch, at the present weights of ``run``.

    Buffers change, as in any forward pass of training.

    Raises:
        TrainingError: they are not finite.
    """
    run.model.train()
    scaler = torch.amp.GradScaler(run.device.type, enabled=False)
    exact = replace(run, precision="fp32", scaler=scaler, sums=EpochSums.zero(run.device))
    with closing(_batches(run)) as batches:
        TrainingStep(exact, compile=False).backward(*next(batches))
    parameters = dict(run.model.named_parameters())
    found = {name: grad for name in run.sparsifier.masks if (grad := parameters[name].grad) is not None}
    missing = sorted(run.sparsifier.masks.keys() - found.keys())
    if missing or not all(bool(gradient.isfinite().all()) for gradient in found.values()):
        raise TrainingError(
            "there are no gradients to regenerate by",
            where=f"step {run.step}",
            got=f"none for {missing[0]}" if missing else "some that are not finite",
            remedy="measure it without regeneration",
        )
    run.optimizer.zero_grad(set_to_none=True)
    return found


def train(run: Run, job: Job, *, watch: Callable[[CellProgressed], None], stop: Callable[[], bool]) -> bool:
    """Train to the end of the cell, by the training step of ``granet train``.

    Returns:
        Whether the loss stayed finite.
    """
    step = TrainingStep(run)
    begun, end = run.step, run.total_steps
    while run.step < end:
        run.model.train()
        run.sums = EpochSums.zero(run.device)
        with closing(_batches(run)) as batches:
            for images, labels in batches:
                step(images, labels)
                watch(CellProgressed(run.step - begun, end - begun))
                if stop():
                    raise _stopped(job)
                if run.step == end:
                    break
        if not math.isfinite(run.sums.means()[0]):
            return False
    return True


def _batches(run: Run) -> Generator[tuple[Tensor, Tensor]]:
    """Yield what is left of the present epoch; a generator, so that workers end when it is closed."""
    epoch, position = divmod(run.step, run.pipeline.steps_per_epoch)
    yield from run.pipeline.batches(epoch, start=position)


def _evaluate(run: Run, stop: Callable[[], bool]) -> Evaluation:
    return evaluate(
        run.model,
        run.pipeline.evaluation(SPLIT),
        precision=run.precision,
        memory_format=run.memory_format,
        stop=stop,
    )


def _load(job: Job) -> Checkpoint:
    """Load the checkpoint if it is still the one that the grid was made of."""
    checkpoint = load(job.source.path)
    if checkpoint.content_hash != job.source.hash:
        raise CheckpointError(
            "the checkpoint changed while it was being measured", where=job.source.path, remedy="start again"
        )
    return checkpoint


def _stopped(job: Job) -> Interrupted:
    return Interrupted("stopped", where=str(job))
