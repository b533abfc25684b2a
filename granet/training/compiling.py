"""The network through torch.compile, with errors for users where that fails.

A compiled network reads the same weights, which the sparsifier masks in place, so masks differ from those of an
uncompiled run only where sums are rounded differently. ``granet.sparsifier.compiled_step`` compiles the optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from granet.errors import GranetError, ModelError, UsageError

SETTING = "training.compile"


def check_compiler(device: torch.device) -> None:
    """Compile a sum for ``device``, to find out early whether torch.compile works.

    Raises:
        UsageError: it does not, mostly because there is no compiler.
    """
    what = f"torch.compile does not work on this {'machine' if device.type == 'cpu' else 'device'}"
    needs = "it needs a C++ compiler, such as g++, and on a GPU Triton; or "
    with _compiler_errors(UsageError, what, needs):
        torch.compile(_sum, dynamic=False)(torch.zeros(8, device=device))


def _sum(numbers: Tensor) -> Tensor:
    return numbers.sum() + 1


class CompiledNetwork(nn.Module):
    """A network that runs through torch.compile, which compiles it at the first call with each shape and mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = torch.compile(model)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            ModelError: the compiler cannot do this network.
        """
        with _compiler_errors(ModelError, "torch.compile cannot do this network"):
            logits: Tensor = self.network(images)
        return logits


@contextmanager
def _compiler_errors(error_type: type[GranetError], what: str, needs: str = "") -> Iterator[None]:
    """Context that turns errors of the compiler into ``error_type``."""
    from torch._dynamo.exc import TorchDynamoException  # importing it takes a second, so only runs that compile do

    try:
        yield
    except TorchDynamoException as error:
        # Errors of the compiler come wrapped in another, and with advice for its developers.
        cause = getattr(error, "inner_exception", error)
        lines = (line.strip() for line in str(cause).splitlines())
        first = next((line for line in lines if line), "no more is known")
        raise error_type(
            what, where=SETTING, got=f"{type(cause).__name__}: {first}", remedy=f"{needs}leave {SETTING} at false"
        ) from error
