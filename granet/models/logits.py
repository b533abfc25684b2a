"""Check that what a network returns is one logit for each image and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from granet.errors import ModelError

_ALONE = (
    "let forward return the logits alone in training and evaluation, as with aux_logits=False or by "
    "'return output.logits'; for a loss over several outputs write a training loop with granet.Sparsifier"
)


def check_logits(output: Any, shape: tuple[int, int], *, where: str, mode: str, own: bool = True) -> None:
    """Raise ModelError unless ``output`` is a floating-point tensor [images, classes].

    Args:
        output: what the network returned.
        shape: the number of images and classes.
        where: the name of the network.
        mode: "training" or "evaluation", the mode that it was in.
        own: whether a factory of the user's made it, which can be changed.
    """
    if isinstance(output, Tensor) and tuple(output.shape) == shape and output.is_floating_point():
        return
    if isinstance(output, Tensor) and tuple(output.shape) == shape:
        got = f"{shape} of {output.dtype} in {mode} mode"
        remedy = "return logits in a floating-point type, not the predicted class"
    elif isinstance(output, Tensor):
        got, remedy = f"{tuple(output.shape)} in {mode} mode", _shape_remedy(tuple(output.shape), shape)
    else:
        got = f"{_outlined(output)} in {mode} mode"
        remedy = "let forward return the logits" if output is None else _ALONE
    raise ModelError(
        "the network does not give one logit for each class",
        where=where,
        got=got,
        expected=f"a tensor of {shape}",
        remedy=remedy if own else None,
    )


def _shape_remedy(found: tuple[int, ...], shape: tuple[int, int]) -> str:
    images, classes = shape
    if len(found) == 2 and found[0] == images:
        return "let the factory follow its argument 'classes'"
    if found in ((classes,), (images * classes,)):
        return "keep the first dimension, the images: flatten(1) instead of flatten(), squeeze() and view(-1)"
    if found[:2] == shape:
        return "reduce what follows the classes to nothing: flatten(1) for sizes of 1, else mean over positions"
    return "return a tensor of two dimensions, images and classes"


def _outlined(output: Any) -> str:
    """Return the type of an output, and the shapes of the tensors in it."""
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"{name} with {', '.join(f'{key!r}: {_shape(value)}' for key, value in list(output.items())[:6])}"
    if isinstance(output, tuple | list):
        return f"{name} of {', '.join(map(_shape, output[:6]))}"
    return name


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
