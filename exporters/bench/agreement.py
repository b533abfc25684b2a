"""Whether models can be compared at all: they have to take the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporters.bench import inputs
from exporters.bench.protocol import Input
from exporters.bench.settings import BenchSettings
from exporters.bench.torch_side import TorchSide
from exporters.bench.worker_errors import Refusal
from granet.errors import UsageError


def check(taken: Mapping[str, tuple[Input, ...]], settings: BenchSettings, side: TorchSide | None) -> None:
    """Makes sure that all can be fed alike, at every batch size.

    Raises:
        UsageError: they cannot.
    """
    first: tuple[str, list[tuple[int, ...]]] | None = None
    if side is not None:
        first = str(side.path), [side.image]
    for label, nodes in taken.items():
        for batch in settings.batches:
            try:
                sizes = [
                    inputs.resolve(node.shape, batch=batch, shape=settings.shape, where=f"{label}, input {node.name}")
                    for node in nodes
                ]
            except Refusal as refusal:
                raise UsageError(refusal.what, **refusal.details) from refusal
        images = [size[1:] for size in sizes]
        if first is None:
            first = label, images
        elif images != first[1]:
            raise UsageError(
                f"{first[0]} and {label} take different inputs, so their times cannot be compared",
                got=_shapes(images),
                expected=_shapes(first[1]),
            )


def _shapes(images: Sequence[Sequence[int]]) -> str:
    return " and ".join("x".join(map(str, size)) or "a number" for size in images)
