"""The small training of ``tests.adapted`` in Lightning and in the Trainer of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from granet.models.torchvision_guard import import_torchvision
from tests.adapted import EPOCHS, Examples, Outcome, method, network, optimizer_of

import_torchvision()  # both libraries do, and beside a CPU-only torch only granet can
for library in ("lightning", "transformers"):
    pytest.importorskip(library, reason=f"pip install -c constraints.txt '.[{library}]' first")

import lightning  # noqa: E402
import transformers  # noqa: E402

from granet.adapters import lightning as with_lightning  # noqa: E402
from granet.adapters import transformers as with_transformers  # noqa: E402

# ---- Lightning


class Module(lightning.LightningModule):
    def __init__(self, parts: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.net = network(seed)
        self._parts = parts

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self.net(batch["images"]), batch["labels"])

    def configure_optimizers(self) -> Optimizer:
        return optimizer_of(self.net)

    def train_dataloader(self) -> DataLoader[Any]:
        return Examples(self.current_epoch).loader(self._parts)


class Manual(Module):
    """Clears gradients, computes them and steps by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor]) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch))
        optimizer.step()


def lightning_trainer(*callbacks: lightning.Callback, **settings: Any) -> lightning.Trainer:
    settings = {"max_epochs": EPOCHS, "reload_dataloaders_every_n_epochs": 1, **settings}
    settings.setdefault("enable_checkpointing", False)
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )


def fit(trainer: lightning.Trainer, module: lightning.LightningModule, **settings: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # advice on speed
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")  # ModelCheckpoint
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # between Lightning and torch
        trainer.fit(module, **settings)


def by_lightning(
    name: str,
    parts: int = 1,
    module: Module | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    **settings: Any,
) -> Outcome:
    callback = with_lightning.SparsifierCallback(method(name), module="net")
    module = Module(parts) if module is None else module
    if parts > 1:
        settings["accumulate_grad_batches"] = parts
    fit(lightning_trainer(callback, *callbacks, **settings), module)
    return Outcome.of(module.net, callback.sparsifier)


# ---- transformers


class WithLoss(nn.Module):
    """What the Trainer expects: the loss comes with the answers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = network(seed)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Trainer(transformers.Trainer):
    """Takes its batches as they are."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.accelerator.prepare(self.train_dataset.loader(self.args.gradient_accumulation_steps))

    def get_eval_dataloader(self, eval_dataset: object = None) -> DataLoader[Any]:
        return self.accelerator.prepare(Examples().loader())


def transformers_trainer(
    callback: transformers.TrainerCallback, folder: Path, parts: int = 1, seed: int = 0, **settings: Any
) -> Trainer:
    model = WithLoss(seed)
    settings = {"save_strategy": "no", "max_grad_norm": 0.0, "num_train_epochs": EPOCHS, **settings}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        gradient_accumulation_steps=parts,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Examples(),
        eval_dataset=Examples(),
        optimizers=(optimizer_of(model), None),
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def by_transformers(
    name: str, folder: Path, parts: int = 1, scaler: torch.amp.GradScaler | None = None, **settings: Any
) -> Outcome:
    callback = with_transformers.SparsifierCallback(method(name), module="net")
    trainer = transformers_trainer(callback, folder, parts, **settings)
    trainer.accelerator.scaler = scaler
    trainer.train()
    return Outcome.of(trainer.model.net, callback.sparsifier)
