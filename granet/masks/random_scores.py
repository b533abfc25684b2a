"""Counter-based uniform random scores, computed on demand (SplitMix64).

Each score is a hash of the layer's key and of the position, so that growing at random needs no memory for scores and
draws the same for a weight on every device and in every memory format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from granet.masks import kernels
from granet.masks.layout import LayerSpan, Layout, in_shape

_BLOCK = 2**15
"""Positions hashed at a time on a CPU, to fit its cache; elsewhere all at once."""


@dataclass(frozen=True)
class UniformEntries:
    """The scores of a layer in storage order, float32 in [0, 1); a slice of it is a tensor."""

    key: int
    span: LayerSpan
    device: torch.device
    dtype = torch.float32

    def __getitem__(self, part: slice) -> Tensor:
        wanted = range(self.span.size)[part]
        found = torch.empty(len(wanted), dtype=self.dtype, device=self.device)
        block = _BLOCK if self.device.type == "cpu" else max(len(wanted), 1)
        for begin in range(0, len(wanted), block):
            now = wanted[begin : begin + block]
            stored = torch.arange(now.start, now.stop, now.step, device=self.device)
            positions = stored if self.span.plain else self.span.logical(stored)
            kernels.uniform(self.key, positions, out=found[begin : begin + len(now)])
        return found


class UniformScores(Mapping[str, Tensor]):
    """Uniform scores, float32 in [0, 1), for tensors shaped as those of ``like``; computed anew when looked up.

    The score at flat index ``i`` of a layer has the 24 highest bits of the ``i``-th number of SplitMix64 (Steele, Lea
    and Flood 2014), seeded with the key: the resolution of ``torch.rand``.

    Args:
        keys: a 63-bit integer for each layer.
        like: gives shapes and device.
    """

    def __init__(self, keys: Mapping[str, int], like: Mapping[str, Tensor]) -> None:
        self._keys, self._like = keys, like

    def flattened(self, layout: Layout) -> dict[str, UniformEntries]:
        """Return the scores of each layer of ``layout``, as ``layout.flattened`` does for tensors."""
        return {name: UniformEntries(self._keys[name], span, self._like[name].device) for name, span in layout.items()}

    def __getitem__(self, name: str) -> Tensor:
        span = Layout.of({name: self._like[name]})[name]
        return in_shape(self.flattened(Layout({name: span}))[name][:], span.shape, span.order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
