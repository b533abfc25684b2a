"""The same small training as our own loop, as the three plain lines, and in a loop that Accelerate prepares."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from granet import models
from granet.checkpoint import load
from granet.data import make_pipeline
from granet.masks.mapping import Masks
from granet.methods.base import Method
from granet.recipe import Recipe, build_method
from granet.sparsifier import Sparsifier
from granet.training import RunFolder, train
from granet.training.optimizer import build_optimizer
from tests.synthetic import arrays_dataset

pytest.importorskip("accelerate", reason="pip install -c constraints.txt '.[accelerate]' first")

import accelerate

from granet.adapters import accelerate as with_accelerate

CPU = torch.device("cpu")
STEPS_PER_EPOCH, EPOCHS = 4, 3
TOTAL = STEPS_PER_EPOCH * EPOCHS
SETTINGS = {
    "granet": 'density = 0.2\ninterval = "2it"\nend = "8it"',
    "rigl": 'density = 0.3\ninterval = "2it"',
    "snfs": 'density = 0.3\ninterval = "3it"',
}
DATASET = arrays_dataset(train=12 * STEPS_PER_EPOCH)


@cache
def recipe(method: str, parts: int = 1) -> Recipe:
    text = f"""
        name = "adapted"
        [model]
        name = "resnet8"
        [data]
        name = "fashion-mnist-subset"
        [method]
        name = "{method}"
        {SETTINGS[method]}
        [optimizer]
        name = "sgd"
        momentum = 0.9
        learning_rate = 0.02
        weight_decay = 1e-3
        [schedule]
        name = "constant"
        [training]
        epochs = {EPOCHS}
        batch_size = 12
        accumulate = {parts}
    """
    return Recipe.from_toml(text, where="test")


def method(name: str) -> Method:
    return build_method(recipe(name), STEPS_PER_EPOCH)


def network(seed: int = 0) -> nn.Module:
    return models.build(
        "resnet8", in_channels=3, classes=len(DATASET.classes), image_size=DATASET.image_size, seed=seed
    )


def optimizer_of(model: nn.Module) -> Optimizer:
    return build_optimizer(recipe("granet"), model, CPU)


class Examples(Dataset[dict[str, Tensor]]):
    """The examples of one epoch, in the order of our own loop."""

    def __init__(self, epoch: int = 0) -> None:
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        batches = make_pipeline(DATASET, batch_size=12, device=CPU, seed=0, augment="none").batches(epoch)
        images, labels = zip(*batches, strict=True)
        self._images, self._labels = torch.cat(images), torch.cat(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self._images[index], "labels": self._labels[index]}

    def loader(self, parts: int = 1) -> DataLoader[dict[str, Tensor]]:
        """Batches, or parts of batches, in order."""
        return DataLoader(self, batch_size=12 // parts, shuffle=False)


class Outcome:
    """Weights and masks at the end of a run, whoever ran it."""

    def __init__(self, weights: dict[str, Tensor], masks: Masks) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}
        self.masks = {name: mask.clone() for name, mask in masks.items()}

    @classmethod
    def of(cls, model: nn.Module, sparsifier: Sparsifier) -> Outcome:
        assert sparsifier.steps == TOTAL
        return cls(dict(model.named_parameters()), sparsifier.masks)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Outcome)
        assert self.masks.keys() == other.masks.keys()
        assert self.weights.keys() == other.weights.keys()
        return all(torch.equal(self.masks[name], other.masks[name]) for name in self.masks) and all(
            torch.equal(self.weights[name], other.weights[name]) for name in self.weights
        )

    __hash__ = None  # type: ignore[assignment]


@cache
def by_our_own_loop(name: str, parts: int) -> Outcome:
    with TemporaryDirectory() as folder:
        train(recipe(name, parts), RunFolder(Path(folder) / "run"), CPU, dataset=DATASET)
        last = load(Path(folder) / "run" / "last.safetensors")
        return Outcome(dict(last.weights), last.masks)


class Overflowing(torch.amp.GradScaler):
    """A scaler whose third gradients are not finite, so that the third step is skipped.

    Not the first: torch's fused SGD would make its momentum there and never fill it.
    """

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0**10)
        self._scaled = 0

    def scale(self, outputs: Tensor) -> Tensor:  # type: ignore[override]
        self._scaled += 1
        return super().scale(outputs * torch.inf if self._scaled == 3 else outputs)


def by_three_lines(
    name: str,
    parts: int = 1,
    *,
    clip: float | None = None,
    clip_value: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Outcome:
    model = network()
    optimizer = optimizer_of(model)
    sparsifier = Sparsifier(model, optimizer, method(name), total_steps=TOTAL)
    scaler = torch.amp.GradScaler("cpu", enabled=False) if scaler is None else scaler
    model.train()
    for epoch in range(EPOCHS):
        for index, batch in enumerate(Examples(epoch).loader(parts)):
            scaler.scale(F.cross_entropy(model(batch["images"]), batch["labels"]) / parts).backward()
            if (index + 1) % parts == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                if clip_value is not None:
                    nn.utils.clip_grad_value_(model.parameters(), clip_value)
                scaler.step(optimizer)
                scaler.update()
                sparsifier.step()
                optimizer.zero_grad()
    return Outcome.of(model, sparsifier)


# ---- Accelerate


class Accelerated:
    """A loop as the documentation of Accelerate shows it."""

    def __init__(
        self,
        name: str,
        parts: int = 1,
        *,
        seed: int = 0,
        clip: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        total_steps: int = TOTAL,
    ) -> None:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=parts)
        self.accelerator.scaler = scaler
        self._clip = clip
        self.net = network(seed)
        self.model, self.optimizer, self._loader = self.accelerator.prepare(
            self.net, optimizer_of(self.net), Examples().loader(parts)
        )
        self.prepared = with_accelerate.prepare(
            self.accelerator, self.model, self.optimizer, method(name), total_steps=total_steps
        )

    def train(self, start: int = 0, end: int = EPOCHS) -> Accelerated:
        self.model.train()
        for epoch in range(start, end):
            self._loader.set_epoch(epoch)
            for batch in self._loader:
                with self.accelerator.accumulate(self.model):
                    loss = F.cross_entropy(self.model(batch["images"]), batch["labels"])
                    self.accelerator.backward(loss)
                    if self._clip is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), self._clip)
                    self.optimizer.step()
                    self.prepared.step()
                    self.optimizer.zero_grad()
        return self

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.net, self.prepared.sparsifier)


def by_accelerate(name: str, parts: int = 1, **settings: Any) -> Outcome:
    return Accelerated(name, parts, **settings).train().outcome
