"""Time and memory of a few training steps, for ``granet plan``; nothing is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count, islice, repeat
from typing import Any

import torch
from torch import Tensor, nn

from granet.data import Arrays
from granet.data.pipeline import EVALUATED
from granet.training.device import describe_device
from granet.training.evaluate import evaluate
from granet.training.run import Run
from granet.training.step import TrainingStep

_SECONDS = 20.0
"""Seconds after which no further step is timed."""


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """Time and memory of training steps.

    Attributes:
        device: its name.
        precision: of the arithmetic.
        real_images: whether the steps had images of the dataset, read and augmented as in training, or noise.
        steps: how many were timed, after one that was not.
        step_seconds: the median of them.
        spread_seconds: the fastest and the slowest.
        evaluation_seconds: of the validation split, from one batch.
        update_seconds: of a change of topology; 0 when none is due in the whole run.
        memory: bytes by use: weights, buffers, gradients, optimizer, masks, activations, images.
        peak_memory: the most bytes that the GPU allocated; None elsewhere.
    """

    device: str
    precision: str
    real_images: bool
    steps: int
    step_seconds: float
    spread_seconds: tuple[float, float]
    evaluation_seconds: float
    update_seconds: float
    memory: Mapping[str, int]
    peak_memory: int | None


def time_steps(run: Run, *, steps: int, real_images: bool) -> StepTiming:
    """Train ``run``, which is at step 0, for one step, and time up to ``steps`` more.

    Args:
        run: is changed; only its shapes are of use afterwards.
        steps: at least 1; fewer are timed if they take long.
        real_images: False trains on noise in the shape of the images.
    """
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    batches = _images(run) if real_images else _noise(run, run.recipe.training.batch_size)
    run.model.train()
    saved: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(_recorder(saved, run.model), lambda tensor: tensor):
        TrainingStep(run, compile=False)(*next(batches))
    step = TrainingStep(run)
    if run.recipe.training.compile:
        step(*next(batches))  # compiles
    durations: list[float] = []
    while len(durations) < steps and sum(durations) < _SECONDS:
        begin = _now(run)
        step(*next(batches))
        durations.append(_now(run) - begin)
    return StepTiming(
        device=describe_device(run.device),
        precision=run.precision,
        real_images=real_images,
        steps=len(durations),
        step_seconds=statistics.median(durations),
        spread_seconds=(min(durations), max(durations)),
        evaluation_seconds=_evaluation(run, real_images=real_images),
        update_seconds=_update(run),
        memory=_memory(run, sum(saved.values())),
        peak_memory=torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else None,
    )


def _now(run: Run) -> float:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter()


def _images(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches without end: an epoch may be shorter than the timing."""
    return chain.from_iterable(run.pipeline.batches(epoch) for epoch in count())


def _noise(run: Run, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = run.dataset.image_size
    images = torch.rand(number, run.dataset.channels, size, size, device=run.device)
    return repeat((images, torch.zeros(number, dtype=torch.int64, device=run.device)))


def _evaluation(run: Run, *, real_images: bool) -> float:
    """Estimate the seconds of evaluating the validation split, from one batch."""
    examples = len(run.dataset.validation)
    batches = run.pipeline.evaluation("validation", EVALUATED) if real_images else _noise(run, min(examples, EVALUATED))
    begin = _now(run)
    result = evaluate(run.model, islice(batches, 1), precision=run.precision, memory_format=run.memory_format)
    return (_now(run) - begin) * examples / result.examples


@torch.no_grad()
def _update(run: Run) -> float:
    """Return the seconds of the next update, with the gradients of the last step; 0 when none is due."""
    method, total = run.sparsifier.method, run.total_steps
    due = next((step for step in range(run.step + 1, total + 1) if method.due(step, total)), None)
    if due is None:
        return 0.0
    begin = _now(run)
    run.sparsifier.propose(due)
    return _now(run) - begin


def _recorder(saved: dict[int, int], model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a hook that adds to ``saved`` the bytes of each storage kept for the backward pass, weights left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    return record


def _memory(run: Run, activations: int) -> dict[str, int]:
    weights = sum(parameter.nbytes for parameter in run.model.parameters())
    trained = {id(p): p.nbytes for group in run.optimizer.param_groups for p in group["params"]}
    images = (run.dataset.train, run.dataset.validation)
    resident = sum(split.images.nbytes for split in images if isinstance(split, Arrays))
    parameters = {parameter.untyped_storage().data_ptr() for parameter in run.model.parameters()}
    return {
        "weights": weights,
        "buffers": sum(buffer.nbytes for buffer in run.model.buffers()),
        "gradients": sum(trained.values()),
        "optimizer": sum(_storages(list(run.optimizer.state.values())).values()),
        "masks": sum(n for address, n in _storages(vars(run.sparsifier)).items() if address not in parameters),
        "activations": activations,
        "images": resident,
    }


def _storages(value: Any, depth: int = 4) -> dict[int, int]:
    """Return the address and bytes of each storage of the tensors in nested containers and plain objects."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    if depth == 0 or isinstance(value, nn.Module | torch.optim.Optimizer):
        return {}
    if isinstance(value, dict):
        items = list(value.values())
    elif isinstance(value, list | tuple | set):
        items = list(value)
    else:
        items = list(vars(value).values()) if hasattr(value, "__dict__") else []
    found: dict[int, int] = {}
    for item in items:
        found |= _storages(item, depth - 1)
    return found
