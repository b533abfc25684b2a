"""The trial of a network before it trains: noise in the batch sizes, memory format, precision and modes of training.

What a network cannot do is said here, before anything is written, and not at the end of the first epoch. Nothing of
the network changes: the trial runs on a copy that shares its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from granet.data import Dataset
from granet.data.memory_format import image_layout
from granet.data.pipeline import EVALUATED
from granet.errors import ModelError, UsageError, listing
from granet.layers.mask_effect import check_network
from granet.methods.base import Method
from granet.models import is_factory
from granet.models.failures import lacks_memory, network_errors
from granet.models.logits import check_logits
from granet.recipe import Recipe
from granet.sparsifier import Sparsifier
from granet.training import hidden_state
from granet.training.device import Precision, autocast, lay_out, move_model, resolve_memory_format


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a network is tried.

    Attributes:
        where: the name of the network, for messages.
        channels, image_size: of the images; height and width are equal.
        classes: the number of logits.
        device, precision, memory_format: of the batches.
        label_smoothing: of the loss.
    """

    where: str
    channels: int
    image_size: int
    classes: int
    device: torch.device
    precision: Precision
    memory_format: torch.memory_format
    label_smoothing: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset, device: torch.device, precision: Precision) -> Trial:
        """Return the trial of the network of a recipe, in the memory format that suits it."""
        return cls(
            where=recipe.model.name,
            channels=dataset.channels,
            image_size=dataset.image_size,
            classes=len(dataset.classes),
            device=device,
            precision=precision,
            memory_format=resolve_memory_format(recipe.training.memory_format, device, recipe.model.name),
            label_smoothing=recipe.training.label_smoothing,
        )

    def train(self, model: nn.Module, sizes: Collection[int]) -> frozenset[str]:
        """Take batches of these sizes forward and backward; return the parameters that no loss depends on.

        Raises:
            ModelError: the network fails, returns something else than logits, or cannot be trained.
        """
        idle = [self._on_a_copy(model, size, training=True) for size in sizes]
        return frozenset.intersection(*idle) if idle else frozenset()

    def evaluate(self, model: nn.Module, sizes: Collection[int]) -> None:
        """Take batches of these sizes forward in evaluation mode.

        Raises:
            ModelError: the network fails, or returns something else than logits.
        """
        for size in sizes:
            self._on_a_copy(model, size, training=False)

    def check_masks(self, model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
        """Raise UsageError if masks of some weights would have no effect, see ``granet.layers.mask_effect``."""
        with _generators_kept(self.device), autocast(self.device, self.precision):
            check_network(model, weights, lambda network: network(self._images(2)))

    def _on_a_copy(self, model: nn.Module, size: int, *, training: bool) -> frozenset[str]:
        attempt = self._backward if training else self._forward
        with _generators_kept(self.device):
            try:
                tried = _sharing_weights(model).train(training)
                idle = attempt(tried, size)
            except Exception as error:  # some networks cannot be copied, and some copies do not work
                if lacks_memory(error):
                    raise
            else:
                if training:
                    spare = _sharing_weights(model)
                    hidden_state.check(model, tried, spare, lambda network: self._logits(network, size))
                return idle
            with _unchanged(model):
                return attempt(model.train(training), size)

    def _forward(self, model: nn.Module, size: int) -> frozenset[str]:
        with torch.no_grad():
            self._logits(model, size)
        return frozenset()

    def _backward(self, model: nn.Module, size: int) -> frozenset[str]:
        with network_errors(f"the network cannot train on {self._batch(size)}", where=self.where, network=model):
            logits = self._logits(model, size)
            if not logits.requires_grad:
                raise ModelError(
                    "the logits do not depend on any weight that trains",
                    where=self.where,
                    remedy="leave out no_grad and detach in forward, and do not freeze every layer",
                )
            labels = torch.zeros(size, dtype=torch.int64, device=self.device)
            with autocast(self.device, self.precision):
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
        return frozenset(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)

    def _logits(self, model: nn.Module, size: int) -> Tensor:
        mode = "training" if model.training else "evaluation"
        images = self._images(size)
        remedy = None
        if self.memory_format is torch.channels_last:
            remedy = "with training.memory_format = contiguous, view works as it does elsewhere"
        with (
            network_errors(
                f"the network cannot take {self._batch(size)} in {mode} mode",
                where=self.where,
                network=model,
                remedy=remedy,
            ),
            autocast(self.device, self.precision),
        ):
            output: Any = model(images)
        check_logits(output, (size, self.classes), where=self.where, mode=mode, own=is_factory(self.where))
        logits: Tensor = output
        return logits

    def _images(self, size: int) -> Tensor:
        noise = torch.randn(
            size, self.channels, self.image_size, self.image_size, generator=torch.Generator().manual_seed(0)
        )
        return image_layout(noise.to(self.device), self.memory_format)

    def _batch(self, size: int) -> str:
        return f"a batch of {size} x {self.channels} x {self.image_size} x {self.image_size}"


def placed(model: nn.Module, trial: Trial, *, asked: str | None) -> tuple[nn.Module, Trial]:
    """Move ``model`` to the device of ``trial``; return it, and the trial with the memory format that it gets.

    A GPU is fastest in channels_last. Unless that is ``asked`` for, a network that fails in it is run contiguous.
    """
    model = move_model(model, trial.device, trial.memory_format)
    if asked is None and trial.memory_format is torch.channels_last:
        try:
            trial.evaluate(model, (2,))
        except ModelError:
            return lay_out(model, torch.contiguous_format), replace(trial, memory_format=torch.contiguous_format)
    return model, trial


def try_out(model: nn.Module, trial: Trial, recipe: Recipe, dataset: Dataset, *, ranks: int = 1) -> frozenset[str]:
    """Train and evaluate on batches of all sizes of a run; return the parameters that the loss does not depend on.

    Raises:
        UsageError: a part of a batch is one image, which the network cannot normalise in training.
        ModelError: see ``Trial``.
    """
    batch_size, parts = recipe.training.batch_size // ranks, recipe.training.accumulate
    largest = -(-batch_size // parts)
    sizes = {largest, batch_size % largest or largest}
    if ranks > 1 and recipe.training.sync_batch_norm:
        sizes.discard(1)  # the ranks normalise over the images of all
    try:
        idle = trial.train(model, sorted(sizes, reverse=True))
    except ModelError as error:
        if 1 in sizes and isinstance(error.__cause__, ValueError):
            raise UsageError(
                "the network cannot train on one image at a time",
                where="training.batch_size" if parts == 1 else "training.accumulate",
                got=f"{batch_size} images{' a rank' if ranks > 1 else ''} in parts of {largest}; {error.__cause__}",
                remedy="choose a larger batch" if parts == 1 else "choose fewer parts, of which none is a single image",
            ) from error
        raise
    evaluated = {size for split in (dataset.validation, dataset.test) for size in _evaluated(len(split))}
    trial.evaluate(model, sorted(evaluated, reverse=True))
    return idle


def _evaluated(examples: int) -> set[int]:
    """Return the different sizes of the batches that a split is evaluated in."""
    return {min(examples, EVALUATED), examples % EVALUATED} - {0}


def check_reached(sparsifier: Sparsifier, idle: Collection[str], recipe: Recipe, *, where: str) -> None:
    """Raise ModelError if a masked weight is among the ``idle`` ones, which got no gradient to grow by."""
    layers = [name.removesuffix(".weight") for name in sparsifier.masks if name in idle]
    if layers:
        patterns = ", ".join(f'"{pattern}"' for pattern in (*recipe.method.dense, *layers))
        raise ModelError(
            "the loss does not depend on these layers, so that there is no gradient to grow their weights by",
            where=where,
            got=listing(layers, 5),
            remedy=f"keep them dense with --set 'method.dense=[{patterns}]', or leave them out of the network",
        )


def grows_by_gradient(method: Method, total_steps: int) -> bool:
    """Whether any update of a run needs gradients."""
    if method.momentum_decay is not None:
        return True
    steps = range(1, total_steps + 1)
    return any(method.due(step, total_steps) and method.needs_gradients(step, total_steps) for step in steps)


def _sharing_weights(model: nn.Module) -> nn.Module:
    """Return a copy of the network that shares its weights, and nothing else."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    for module in model.modules():  # what an old-style weight_norm computes cannot be copied
        computed = (value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf)
        shared |= {id(value): value.detach() for value in computed}
    return copy.deepcopy(model, shared)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Context after which buffers, modes and gradients of ``model`` are what they were."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, training in modes.items():
            module.training = training
        for parameter in model.parameters():
            parameter.grad = None


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    devices = () if device.type == "cpu" else (device,)
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        yield
