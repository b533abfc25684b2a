"""Build the torch optimizer that a recipe describes: sgd, adam, adamw or rmsprop.

What else knows optimizers: ``granet.sparsifier.optimizer_rules`` (compiled update rules), ``optimizer_state`` (state
under masks), and ``granet.recipe.setting_rules`` (which settings each of them has).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from granet.recipe import Recipe


def build_optimizer(recipe: Recipe, model: nn.Module, device: torch.device) -> Optimizer:
    """Return the optimizer of a recipe, with two parameter groups if norms and biases do not decay."""
    settings = recipe.optimizer
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.dim() > 1 or settings.decay_norms_and_biases]
    flat = [parameter for parameter in parameters if parameter.dim() <= 1 and not settings.decay_norms_and_biases]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": flat, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    # Fused SGD leaves momentum uninitialised if a scaler skips the very first step.
    skips = settings.name == "sgd" and recipe.training.precision == "fp16"
    fused: dict[str, Any] = {"fused": device.type in ("cpu", "cuda") and not skips}
    if settings.name == "sgd":
        nesterov = bool(settings.nesterov)
        return SGD(groups, momentum=settings.momentum or 0.0, nesterov=nesterov, **common, **fused)
    if settings.name == "adam":
        return Adam(groups, **common, **fused)
    if settings.name == "adamw":
        return AdamW(groups, **common, **fused)
    return RMSprop(groups, momentum=settings.momentum or 0.0, **common)
