"""Uniform random scores that are never held: each is a hash of the layer's key and of its position.

Whoever reads some of them computes those, in any order and on any device, so that growing at random takes no memory for
scores and draws the same for a weight whatever the memory format of its layer is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from granet.masks import kernels
from granet.masks.layout import LayerSpan, Layout, in_shape

_BLOCK = 2**15
"""Positions that are hashed at a time on a CPU, for the sake of its cache; elsewhere as many as are asked for."""


@dataclass(frozen=True)
class UniformEntries:
    """The scores of a layer in storage order, float32 in [0, 1); a slice of it is a tensor, as one of a tensor is."""

    key: int
    place: LayerSpan
    device: torch.device
    dtype = torch.float32

    def __getitem__(self, span: slice) -> Tensor:
        wanted = range(self.place.size)[span]
        found = torch.empty(len(wanted), dtype=self.dtype, device=self.device)
        block = _BLOCK if self.device.type == "cpu" else max(len(wanted), 1)
        for begin in range(0, len(wanted), block):
            part = wanted[begin : begin + block]
            at = torch.arange(part.start, part.stop, part.step, device=self.device)
            positions = at if self.place.plain else self.place.logical(at)
            kernels.uniform(self.key, positions, out=found[begin : begin + len(part)])
        return found


class UniformScores(Mapping[str, Tensor]):
    """Uniform scores for tensors shaped as those of ``like``; what is looked up is made anew, float32 in [0, 1).

    The score at flat index ``i`` of a layer is the ``i``-th number of SplitMix64 (Steele, Lea and Flood 2014), started
    at the key, as its 24 highest bits: as fine as ``torch.rand``.

    Args:
        keys: a 63-bit integer for each layer.
        like: tells shapes and device.
    """

    def __init__(self, keys: Mapping[str, int], like: Mapping[str, Tensor]) -> None:
        self._keys, self._like = keys, like

    def flattened(self, layout: Layout) -> dict[str, UniformEntries]:
        """As ``layout.flattened``, for every layer of ``layout``."""
        return {
            name: UniformEntries(self._keys[name], place, self._like[name].device) for name, place in layout.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        place = Layout.of({name: self._like[name]})[name]
        return in_shape(self.flattened(Layout({name: place}))[name][:], place.shape, place.order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
