"""The network through torch.compile, with errors for users where that fails.

A compiled network reads the same weights, which the sparsifier masks in place, so masks differ from those of an
uncompiled run only where sums are rounded differently. ``granet.sparsifier.compiled_step`` compiles the optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from granet.errors import ModelError, UsageError

SETTING = "training.compile"


def check_compiler(device: torch.device) -> None:
    """Compile a sum for ``device``, to find out early whether torch.compile works.

    Raises:
        UsageError: it does not, mostly because there is no compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # importing it takes a second, which others need not wait

    try:
        torch.compile(_sum, dynamic=False)(torch.zeros(8, device=device))
    except TorchDynamoException as error:
        raise UsageError(
            f"torch.compile does not work on this {'machine' if device.type == 'cpu' else 'device'}",
            where=SETTING,
            got=_reason(error),
            remedy=f"it needs a C++ compiler, such as g++, and on a GPU Triton; or leave {SETTING} at false",
        ) from error


def _sum(numbers: Tensor) -> Tensor:
    return numbers.sum() + 1


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return ``model`` through torch.compile, which compiles it at the first call with each shape and mode.

    Raises, when called:
        ModelError: the compiler cannot do this network.
    """
    from torch._dynamo.exc import TorchDynamoException

    forward: Callable[[Tensor], Tensor] = torch.compile(model)

    def call(images: Tensor) -> Tensor:
        try:
            return forward(images)
        except TorchDynamoException as error:
            raise ModelError(
                "torch.compile cannot do this network",
                where=SETTING,
                got=_reason(error),
                remedy=f"leave {SETTING} at false",
            ) from error

    return call


def _reason(error: Exception) -> str:
    """Return the cause in one line; the compiler wraps it in another error, with advice for its developers."""
    cause = getattr(error, "inner_exception", error)
    lines = (line.strip() for line in str(cause).splitlines())
    return f"{type(cause).__name__}: {next((line for line in lines if line), 'no more is known')}"
