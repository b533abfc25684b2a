"""Masks at one bit a weight.

An update needs several masks of the whole network at once. As bits each takes a thirty-second of the memory of the
weights, and is unpacked by the layer. Bits are in storage order: see ``granet.masks.layout``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from granet.masks import kernels
from granet.masks.layout import Layout, flattened, in_shape, only_device


class PackedMasks(Mapping[str, Tensor]):
    """Masks by parameter name; looking one up unpacks it into a new bool tensor.

    Args:
        layout: which bits are those of each layer.
        bits: uint8; unused bits are 0.
    """

    def __init__(self, layout: Layout, bits: Tensor) -> None:
        self.layout, self.bits = layout, bits

    @classmethod
    def of(cls, masks: Mapping[str, Tensor], layout: Layout | None = None) -> PackedMasks:
        """Return ``masks`` packed in their own memory formats, or those of ``layout``; themselves if they are so."""
        if isinstance(masks, PackedMasks) and (layout is None or masks.layout == layout):
            return masks
        if layout is None:
            layout = Layout.of(masks)
        packed = cls.none(layout, only_device(masks))
        entries = flattened(masks, layout)
        for piece in layout.pieces(packed.bits.device):
            packed.bits[piece.bytes] = kernels.pack(piece.gather(entries))
        return packed

    @classmethod
    def none(cls, layout: Layout, device: torch.device) -> PackedMasks:
        """Return masks in which nothing is active."""
        return cls(layout, kernels.no_bits(layout.bytes, device))

    @classmethod
    def all(cls, layout: Layout, device: torch.device) -> PackedMasks:
        """Return masks in which everything is active."""
        full = cls.none(layout, device)
        full.bits.fill_(255)
        full.counts = {name: span.size for name, span in layout.items()}
        for span in layout.values():
            if span.size % 8:
                full.bits[span.end - 1] = (1 << span.size % 8) - 1
        return full

    def __getitem__(self, name: str) -> Tensor:
        span = self.layout[name]
        entries = kernels.unpack(self.bits[span.start : span.end])[: span.size]
        return in_shape(entries, span.shape, span.order)

    def __eq__(self, other: object) -> bool:
        """Whether ``other`` are masks of the same layers, in the same order, with the same active weights."""
        if not isinstance(other, Mapping) or list(other) != list(self):
            return False
        if any(other[name].shape != span.shape for name, span in self.layout.items()):
            return False
        return all(torch.equal(mask, other[name]) for name, mask in self.items())

    __hash__ = None  # type: ignore[assignment]  # as of other mappings

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of active weights of each layer."""
        counts = dict.fromkeys(self.layout, 0)
        names, found = [], []
        for piece in self.layout.pieces(self.bits.device):
            names += [name for name, *_ in piece.parts]
            found.append(kernels.count_bits(self.bits[piece.bytes], piece.lengths))
        for name, count in zip(names, torch.cat(found).tolist() if found else [], strict=True):
            counts[name] += count
        return counts

    def only(self, names: Iterable[str]) -> PackedMasks:
        """Return the masks of some of the layers, which share their bits with these."""
        return PackedMasks(self.layout.only(names), self.bits)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the layers."""
        return {name: span.shape for name, span in self.layout.items()}

    def copy_from(self, other: PackedMasks) -> None:
        """Overwrite the layers that ``other`` has with its masks."""
        for name, theirs in other.layout.items():
            mine = self.layout[name]
            self.bits[mine.start : mine.end] = other.bits[theirs.start : theirs.end]

    def cleared(self) -> PackedMasks:
        """Return new masks of the same layers in which nothing is active."""
        return PackedMasks(self.layout, kernels.no_bits(len(self.bits), self.bits.device))

    def updated(self, other: PackedMasks) -> PackedMasks:
        """Return a copy in which the layers of ``other`` are as they are there."""
        result = self._copied()
        result.copy_from(other)
        return result

    def intersection(self, other: PackedMasks) -> PackedMasks:
        """Return masks of what is active in both."""
        result = self._copied()
        result.bits &= PackedMasks.of(other, self.layout).bits
        return result

    def without(self, other: PackedMasks) -> PackedMasks:
        """Return masks of what is active here and not in ``other``."""
        result = self.intersection(other)
        result.bits ^= self.bits
        return result

    def union(self, other: PackedMasks) -> PackedMasks:
        """Return masks of what is active in at least one of both."""
        result = self._copied()
        result.bits |= PackedMasks.of(other, self.layout).bits
        return result

    def _copied(self) -> PackedMasks:
        result = self.cleared()
        result.bits.copy_(self.bits)
        return result
