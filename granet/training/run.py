"""A run in memory: ``begin`` makes it from a recipe, ``capture`` turns it into a checkpoint, ``restore`` loads one.

What is not in ``capture`` and ``restore`` is not part of the state. Everything random is keyed by the step, so that a
restored run continues as if it had never stopped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from granet import models
from granet.checkpoint import Checkpoint, Network
from granet.checkpoint.tensors import TensorSource
from granet.data import Dataset, Pipeline, make_pipeline, open_dataset
from granet.errors import CheckpointError
from granet.flops.matrices import Matrices, find_matrices
from granet.layers.maskable import maskable
from granet.models import extra_state
from granet.recipe import Recipe, build_method
from granet.runs.retention import Retention
from granet.sparsifier import Sparsifier
from granet.sparsifier.optimizer_state import laid_out
from granet.training import starting_weights
from granet.training.compiling import check_compiler
from granet.training.device import Precision, resolve_precision
from granet.training.distributed.world import SINGLE_PROCESS, World
from granet.training.optimizer import build_optimizer
from granet.training.trial import Trial, check_reached, grows_by_gradient, placed, try_out


@dataclass
class EpochSums:
    """Sums over the present epoch so far, on the device, so that adding a batch needs no synchronisation."""

    loss: Tensor
    correct: Tensor
    examples: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> EpochSums:
        """Return empty sums; the loss in float64, so that a checkpoint holds it to the last bit."""
        return cls(
            torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
        )

    def add(self, loss: Tensor, correct: Tensor, examples: int) -> None:
        """Add a batch: summed loss, correct answers, and number of examples."""
        self.loss += loss
        self.correct += correct
        self.examples += examples

    def means(self) -> tuple[float, float]:
        """Return mean loss and accuracy; NaN before the first batch. Waits for the device."""
        if self.examples == 0:
            return float("nan"), float("nan")
        return float(self.loss) / self.examples, int(self.correct) / self.examples


@dataclass
class Run:
    """Everything that training reads and changes."""

    recipe: Recipe
    dataset: Dataset
    pipeline: Pipeline
    device: torch.device
    precision: Precision
    memory_format: torch.memory_format
    """Of images, and where it is channels_last of weights."""
    model: nn.Module
    optimizer: Optimizer
    sparsifier: Sparsifier
    matrices: Matrices
    """Of the model, masked or not."""
    scaler: torch.amp.GradScaler
    sums: EpochSums
    world: World
    metrics: dict[str, Any]
    fresh_buffers: dict[str, Tensor]
    """See ``granet.models.extra_state.buffers_as_built``."""

    @property
    def step(self) -> int:
        """Optimizer steps done: the only clock."""
        return self.sparsifier.steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.sparsifier.total_steps

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, the last one perhaps cut short."""
        return -(-self.total_steps // self.pipeline.steps_per_epoch)

    @cached_property
    def retention(self) -> Retention:
        """When to save, and what to keep."""
        return Retention.of(self.recipe, self.pipeline.steps_per_epoch)

    @property
    def epochs_done(self) -> int:
        """Epochs trained and validated, those before the start of a rewound run included."""
        start = self.recipe.rewind.start if self.recipe.rewind is not None else 0
        return start // self.pipeline.steps_per_epoch + len(self.metrics["epochs"])


def open_data(recipe: Recipe, *, directory: Path | None = None, download: bool = False) -> Dataset:
    """Open the dataset of a recipe, in ``directory`` if given, else where the recipe says.

    Raises:
        DataError, UsageError: see ``granet.data.open_dataset``.
    """
    if directory is None and recipe.data.directory is not None:
        directory = Path(recipe.data.directory)
    return open_dataset(
        recipe.data.name,
        directory=directory,
        validation=recipe.data.validation,
        seed=recipe.seed,
        image_size=recipe.data.image_size,
        download=download,
        residency=recipe.data.residency,
        follow_links=bool(recipe.data.follow_links),
    )


def begin(
    recipe: Recipe, dataset: Dataset, device: torch.device, *, fresh: bool = True, world: World = SINGLE_PROCESS
) -> Run:
    """Return a run at step 0.

    With ``fresh`` False the weights that the recipe starts from are not loaded, for a run whose state is then restored.

    Raises:
        UsageError: settings that do not fit the data, the device or each other.
        ModelError: a network that cannot be built, trained or evaluated on such batches, one with layers that the loss
            does not depend on where the method grows weights by gradient, or with extra state that cannot be stored; or
            weights to start from that do not fit it.
        CheckpointError: a tensor of a dtype that no checkpoint can hold, or weights to start from that cannot be read.
    """
    world.ranks.check(recipe.training.batch_size, recipe.training.accumulate)
    precision = resolve_precision(recipe.training.precision, device)
    if recipe.training.compile:
        check_compiler(device)
    pipeline = make_pipeline(
        dataset,
        batch_size=recipe.training.batch_size,
        device=device,
        seed=recipe.seed,
        augment=recipe.data.augment,
        workers=recipe.data.workers,
        ranks=world.ranks,
    )
    method = build_method(recipe, pipeline.steps_per_epoch)
    model = models.build(
        recipe.model.name,
        in_channels=dataset.channels,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        seed=recipe.seed,
    )
    extra_state.check(model)
    fresh_buffers = extra_state.buffers_as_built(model)
    start = starting_weights.start(recipe, model, dataset) if fresh else {}
    _check_storable(model)
    model, tried = placed(model, Trial.of(recipe, dataset, device, precision), asked=recipe.training.memory_format)
    idle = try_out(model, tried, recipe, dataset, ranks=world.ranks.size)
    matrices = find_matrices(model, (dataset.channels, dataset.image_size, dataset.image_size))
    if method.final_density() < 1:
        tried.check_masks(model, maskable(model, recipe.method.dense, matrices.bare))
    if recipe.training.sync_batch_norm:
        model = world.sync_batch_norms(model)
    optimizer = build_optimizer(recipe, model, device)
    sparsifier = Sparsifier(
        model,
        optimizer,
        method,
        total_steps=recipe.total_steps(pipeline.steps_per_epoch),
        seed=recipe.seed,
        dense=recipe.method.dense,
        also=matrices.bare,
        # A fused optimizer unscales fp16 gradients inside its step, which ours does not.
        compiled=recipe.training.compile and precision != "fp16" and method.final_density() < 1,
    )
    if idle & sparsifier.masks.keys() and grows_by_gradient(method, sparsifier.total_steps):
        check_reached(sparsifier, idle, recipe, where=recipe.model.name)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return Run(
        recipe=recipe,
        dataset=dataset,
        pipeline=pipeline,
        device=device,
        precision=precision,
        memory_format=tried.memory_format,
        model=model,
        optimizer=optimizer,
        sparsifier=sparsifier,
        matrices=matrices,
        scaler=scaler,
        sums=EpochSums.zero(device),
        world=world,
        metrics={"epochs": [], "updates": [], **start},
        fresh_buffers=fresh_buffers,
    )


def _check_storable(model: nn.Module) -> None:
    """Raise CheckpointError if a parameter or persistent buffer is of a kind that no checkpoint can hold."""
    for name, tensor in (*model.named_parameters(), *_persistent_buffers(model).items()):
        TensorSource(tensor, None, name)


def _persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    persistent = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def capture(run: Run) -> Checkpoint:
    """Return the state of ``run``.

    Weights, masks and optimizer state are the run's own tensors, not copies: they hold until the next optimizer step.
    Buffers, which a forward pass changes, are copied, and so is everything that is not a tensor.
    """
    parameters = dict(run.model.named_parameters())
    extra = extra_state.collect(run.model, run.fresh_buffers)
    buffers = {name: buffer for name, buffer in _persistent_buffers(run.model).items() if name not in extra}
    progress: dict[str, Any] = {
        "epoch_loss": float(run.sums.loss),
        "epoch_correct": int(run.sums.correct),
        "epoch_examples": run.sums.examples,
        "total_steps": run.total_steps,
        "steps_per_epoch": run.pipeline.steps_per_epoch,
        "examples": split_sizes(run.dataset),
    }
    if run.world.ranks.size > 1:
        progress["ranks"] = run.world.ranks.size
    if run.scaler.is_enabled():
        progress["scaler"] = run.scaler.state_dict()
    return Checkpoint(
        weights={name: parameter.detach() for name, parameter in parameters.items()},
        masks=dict(run.sparsifier.masks),
        buffers={name: buffer.detach().clone() for name, buffer in buffers.items()},
        explored=dict(run.sparsifier.explored),
        optimizer={
            name: dict(run.optimizer.state[parameter])
            for name, parameter in parameters.items()
            if parameter in run.optimizer.state
        },
        accumulators=dict(run.sparsifier.momenta),
        recipe=run.recipe,
        step=run.step,
        network=Network(
            name=run.recipe.model.name,
            in_channels=run.dataset.channels,
            classes=run.dataset.classes,
            image_size=run.dataset.image_size,
            mean=run.dataset.mean,
            std=run.dataset.std,
        ),
        progress=progress,
        metrics=copy.deepcopy(run.metrics),
        extra_state=extra,
    )


@torch.no_grad()
def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Load ``checkpoint`` into a run that was begun with its recipe.

    Raises:
        CheckpointError: the network or the data are not those of the checkpoint.
    """
    for what, mine, theirs in (
        ("classes", run.dataset.classes, checkpoint.network.classes),
        ("steps_per_epoch", run.pipeline.steps_per_epoch, checkpoint.progress["steps_per_epoch"]),
        ("examples", split_sizes(run.dataset), checkpoint.progress["examples"]),
    ):
        if mine != theirs:
            raise CheckpointError("the data are not those of this run", where=what, got=mine, expected=theirs)
    models.load_weights(run.model, checkpoint.weights, checkpoint.buffers, checkpoint.extra_state)
    parameters = dict(run.model.named_parameters())
    packed = run.optimizer.state_dict()
    numbers = {id(p): n for n, p in enumerate(p for group in run.optimizer.param_groups for p in group["params"])}
    slots = {
        numbers[id(parameters[name])]: {slot: laid_out(value, parameters[name]) for slot, value in values.items()}
        for name, values in checkpoint.optimizer.items()
    }
    run.optimizer.load_state_dict({**packed, "state": slots})
    run.sparsifier.load_state_dict(
        {
            "step": checkpoint.step,
            "masks": checkpoint.masks,
            "explored": checkpoint.explored,
            "momenta": checkpoint.accumulators,
        }
    )
    if run.scaler.is_enabled():
        run.scaler.load_state_dict(checkpoint.progress["scaler"])
    run.sums = EpochSums(
        torch.tensor(checkpoint.progress["epoch_loss"], dtype=torch.float64, device=run.device),
        torch.tensor(checkpoint.progress["epoch_correct"], device=run.device),
        checkpoint.progress["epoch_examples"],
    )
    run.metrics = copy.deepcopy(checkpoint.metrics)


def split_sizes(dataset: Dataset) -> dict[str, int]:
    """Return the number of examples of each split."""
    return {split: len(getattr(dataset, split).labels) for split in ("train", "validation", "test")}
