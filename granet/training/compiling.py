"""The network through torch.compile, and what to say where that does not work.

Masking acts on gradients, weights and state, in place, and a compiled network reads the same weights. So masks come out
right by construction, and differ from those of an uncompiled run only where sums are rounded otherwise. The optimizer
step, which masks on its way, is compiled in ``granet.sparsifier.compiled_step``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from granet.errors import ModelError, UsageError

SETTING = "training.compile"


def check_compiler(device: torch.device) -> None:
    """Compiles a sum for ``device``, to know that it can be done before anything depends on it.

    Raises:
        UsageError: it cannot, mostly for want of a compiler.
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
    """``model`` compiled for each shape and mode that it is called with, at the first call with them.

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
    """In a line what went wrong; errors of the compiler come wrapped in another, and with advice for its authors."""
    cause = getattr(error, "inner_exception", error)
    lines = (line.strip() for line in str(cause).splitlines())
    return f"{type(cause).__name__}: {next((line for line in lines if line), 'no more is known')}"
