"""One forward pass of a network without data, whose products are counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from granet.errors import ModelError, UsageError
from granet.files.user_code import described
from granet.flops.products import ProductCounter
from granet.layers.copying import copy_with


def count_products(model: nn.Module, input_shape: Sequence[int]) -> ProductCounter:
    """Return the products of one forward pass on one example, in evaluation mode and without data.

    Args:
        model: the network itself, not a wrapper of it. It is left exactly as it was.
        input_shape: of one example without the batch.

    Raises:
        UsageError: the shape is not positive.
        ModelError: the forward pass depends on the values of tensors, or fails on this shape.
    """
    if not input_shape or min(input_shape) < 1:
        raise UsageError("an input shape has positive sizes", got=tuple(input_shape), expected="(C, H, W)")
    try:
        shadow = copy_with(model, lambda tensor: torch.empty_like(tensor, device="meta")).eval()
        counter = ProductCounter(dict(shadow.named_parameters()), shadow.buffers())
        dtype = next((p.dtype for p in shadow.parameters() if p.is_floating_point()), None)
        example = torch.empty((1, *input_shape), dtype=dtype, device="meta")
        with torch.no_grad(), torch.device("meta"), counter:
            shadow(example)
    except Exception as error:
        raise ModelError(
            f"the forward pass cannot be traced on one example of shape {tuple(input_shape)}",
            where=type(model).__name__,
            got=described(error),
            remedy="keep constant tensors in buffers, and let no branch depend on the values of a tensor",
        ) from error
    return counter
