"""Masks at one bit a weight, and the order in which weights lie in memory.

An update looks at several masks of the whole network at once. As bits they weigh a thirty-second of its weights each,
and a mask of one layer is unpacked only where it is wanted.

Everything flat in here follows *storage order*: the order in which the entries of a tensor lie in memory, whatever its
memory format is. So a weight in channels_last and its mask are both read from front to back. *Logical* order, that of
``tensor.reshape(-1)``, is what ties are broken by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from granet import vectorised
from granet.errors import UsageError

Order = tuple[int, ...]

PIECE = 2**15
"""Bytes of a mask that are worked on at a time: few enough for a CPU's cache, and enough to be worth a GPU's launch."""


def storage_order(tensor: Tensor) -> Order:
    """The dimensions of ``tensor`` from that of the longest stride to that of the shortest.

    The natural order when its entries do not fill a piece of memory, such as those of a slice.
    """
    natural = tuple(range(tensor.dim()))
    if tensor.is_contiguous():
        return natural
    # Strides of dimensions of size 1 mean nothing.
    single = [dim for dim in natural if tensor.shape[dim] == 1]
    real = [dim for dim in natural if tensor.shape[dim] > 1]
    strides = tensor.stride()
    order = (*single, *sorted(real, key=lambda dim: strides[dim], reverse=True))
    return order if tensor.permute(order).is_contiguous() else natural


def flat(tensor: Tensor, order: Order) -> Tensor:
    """The entries of ``tensor`` in ``order``, 1-D: a view where they lie so, a copy elsewhere."""
    return tensor.permute(order).reshape(-1)


def in_shape(entries: Tensor, shape: Sequence[int], order: Order) -> Tensor:
    """The tensor of that shape whose entries in ``order`` are ``entries``: the inverse of ``flat``, a view."""
    inverse = [order.index(dim) for dim in range(len(order))]
    return entries.view([shape[dim] for dim in order]).permute(inverse)


class Entries(Protocol):
    """What is read of a flat tensor: slices."""

    @property
    def dtype(self) -> torch.dtype:
        """Of each slice."""

    def __getitem__(self, span: slice, /) -> Tensor:
        """Those of ``span``."""


def flattened(tensors: Mapping[str, Tensor], layout: Mapping[str, Place]) -> dict[str, Tensor]:
    """``flat`` for every layer of ``layout``."""
    return {name: flat(tensors[name].detach(), place.order) for name, place in layout.items()}


@dataclass(frozen=True)
class Place:
    """Where the bits of a layer are: in the bytes from ``start`` to ``end``. The last may have bits to spare."""

    shape: tuple[int, ...]
    order: Order
    start: int

    @cached_property
    def size(self) -> int:
        """Weights of the layer."""
        return prod(self.shape)

    @cached_property
    def end(self) -> int:
        """One past its last byte."""
        return self.start + -(-self.size // 8)

    @property
    def plain(self) -> bool:
        """Whether storage order is logical order."""
        return self.order == tuple(range(len(self.shape)))

    def logical(self, positions: Tensor) -> Tensor:
        """Storage positions within the layer as logical ones."""
        index, rest = torch.zeros_like(positions), positions
        for dim in reversed(self.order):
            rest, coordinate = vectorised.divided(rest, self.shape[dim])
            index += coordinate.mul_(prod(self.shape[dim + 1 :]))
        return index


def only_device(tensors: Mapping[str, Tensor]) -> torch.device:
    """Where all of them are.

    Raises:
        UsageError: they are on several devices.
    """
    devices = {tensor.device: name for name, tensor in tensors.items()}
    if len(devices) > 1:
        raise UsageError(
            "the masked parameters are on several devices",
            where=", ".join(devices.values()),
            got=", ".join(map(str, devices)),
            expected="one device",
        )
    return next(iter(devices), torch.device("cpu"))


Layout = Mapping[str, Place]


def layout(like: Mapping[str, Tensor]) -> Layout:
    """Places for tensors shaped and laid out as those of ``like``, one after the other."""
    places, start = {}, 0
    for name, tensor in like.items():
        places[name] = Place(tuple(tensor.shape), storage_order(tensor), start)
        start = places[name].end
    return places


class PackedMasks(Mapping[str, Tensor]):
    """Masks by parameter name, as any other ``Masks``; what is looked up is unpacked into a new bool tensor.

    Args:
        layout: where each layer's bits are.
        bits: uint8; those to spare are 0.
    """

    def __init__(self, layout: Layout, bits: Tensor) -> None:
        self.layout, self.bits = layout, bits

    @classmethod
    def of(cls, masks: Mapping[str, Tensor], layout: Layout | None = None) -> PackedMasks:
        """``masks`` packed, in their own memory formats or in those of ``layout``; themselves if they are so."""
        if isinstance(masks, PackedMasks) and (layout is None or masks.layout == layout):
            return masks
        where = _layout_of(masks) if layout is None else layout
        packed = cls.none(where, only_device(masks))
        entries = flattened(masks, where)
        for piece in pieces(where, packed.bits.device):
            packed.bits[piece.bytes] = vectorised.pack(piece.gather(entries))
        return packed

    @classmethod
    def none(cls, layout: Layout, device: torch.device) -> PackedMasks:
        """Masks in which nothing is active."""
        return cls(layout, torch.zeros(_bytes(layout), dtype=torch.uint8, device=device))

    @classmethod
    def all(cls, layout: Layout, device: torch.device) -> PackedMasks:
        """Masks in which everything is active."""
        full = cls(layout, torch.full((_bytes(layout),), 255, dtype=torch.uint8, device=device))
        full.counts = {name: place.size for name, place in layout.items()}
        for place in layout.values():
            if place.size % 8:
                full.bits[place.end - 1] = (1 << place.size % 8) - 1
        return full

    def __getitem__(self, name: str) -> Tensor:
        place = self.layout[name]
        entries = vectorised.unpack(self.bits[place.start : place.end])[: place.size]
        return in_shape(entries, place.shape, place.order)

    def __eq__(self, other: object) -> bool:
        """Whether ``other`` are masks of the same layers, in the same order, with the same active weights."""
        if not isinstance(other, Mapping) or list(other) != list(self):
            return False
        if any(other[name].shape != place.shape for name, place in self.layout.items()):
            return False
        return all(torch.equal(mask, other[name]) for name, mask in self.items())

    __hash__ = None  # type: ignore[assignment]  # as of other mappings

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Active weights of each layer."""
        counts = dict.fromkeys(self.layout, 0)
        names, found = [], []
        for piece in pieces(self.layout, self.bits.device):
            names += [name for name, *_ in piece.parts]
            found.append(vectorised.count_bits(self.bits[piece.bytes], piece.lengths))
        for name, count in zip(names, torch.cat(found).tolist() if found else [], strict=True):
            counts[name] += count
        return counts

    def only(self, names: Iterable[str]) -> PackedMasks:
        """Those of some of the layers. Their bits stay where they are."""
        return PackedMasks({name: self.layout[name] for name in names}, self.bits)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the layers."""
        return {name: place.shape for name, place in self.layout.items()}

    def write(self, other: PackedMasks) -> None:
        """Takes over the layers of ``other``, in place."""
        for name, theirs in other.layout.items():
            mine = self.layout[name]
            self.bits[mine.start : mine.end] = other.bits[theirs.start : theirs.end]

    def updated(self, other: PackedMasks) -> PackedMasks:
        """These, but the layers of ``other`` as they are there."""
        result = PackedMasks(self.layout, self.bits.clone())
        result.write(other)
        return result

    def intersection(self, other: PackedMasks) -> PackedMasks:
        """What is active in both."""
        return PackedMasks(self.layout, self.bits & PackedMasks.of(other, self.layout).bits)

    def without(self, other: PackedMasks) -> PackedMasks:
        """What is active here and not in ``other``."""
        return PackedMasks(self.layout, self.bits & ~PackedMasks.of(other, self.layout).bits)

    def union(self, other: PackedMasks) -> PackedMasks:
        """What is active in one of them."""
        return PackedMasks(self.layout, self.bits | PackedMasks.of(other, self.layout).bits)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some consecutive bytes of a layout: a part of a layer, or several layers.

    Attributes:
        parts: the layers with the entries of each that are in it, in storage order.
        bytes: which bytes.
    """

    parts: Sequence[tuple[str, Place, slice]]
    bytes: slice

    @property
    def lengths(self) -> list[int]:
        """Bytes of each part."""
        return [-(-(part.stop - part.start) // 8) for _, _, part in self.parts]

    @property
    def shares(self) -> Iterator[tuple[str, slice, slice]]:
        """Each layer in it, which of the layer's entries are in it, and where they are among the bits."""
        for name, place, part in self.parts:
            begin = 8 * (place.start - self.bytes.start) if part.start == 0 else 0
            yield name, part, slice(begin, begin + part.stop - part.start)

    def clear_spare(self, bits: Tensor) -> None:
        """Clears those of its ``bits`` that belong to no entry; a layer whose size is no multiple of 8 ends in some."""
        for _, _, share in self.shares:
            if share.stop % 8:
                bits[share.stop // 8] &= (1 << share.stop % 8) - 1

    def gather(self, entries: Mapping[str, Entries]) -> Tensor:
        """Those of ``flattened`` tensors, one for every bit, 0 for spare ones. A view where that is possible."""
        found: list[Tensor] = []
        for name, _, part in self.parts:
            found.append(entries[name][part])
            if spare := -found[-1].numel() % 8:
                found.append(found[-1].new_zeros(spare))
        return found[0] if len(found) == 1 else torch.cat(found)


def pieces(layout: Layout, device: torch.device, names: Iterable[str] | None = None) -> Iterator[Piece]:
    """The layers called ``names``, in the order of ``layout``, or all of them, in pieces of a bounded size."""
    most = PIECE if device.type == "cpu" else 4 * PIECE
    parts: list[tuple[str, Place, slice]] = []
    begin = end = 0
    for name in layout if names is None else names:
        place = layout[name]
        if place.end == place.start:
            continue
        if parts and (place.start != end or place.end - begin > most):
            yield Piece(parts, slice(begin, end))
            parts = []
        if not parts:
            begin = place.start
        if place.end - place.start > most:
            for first in range(place.start, place.end, most):
                last = min(first + most, place.end)
                entries = slice(8 * (first - place.start), min(8 * (last - place.start), place.size))
                yield Piece([(name, place, entries)], slice(first, last))
        else:
            parts.append((name, place, slice(0, place.size)))
        end = place.end
    if parts:
        yield Piece(parts, slice(begin, end))


def _layout_of(masks: Mapping[str, Tensor]) -> Layout:
    return masks.layout if isinstance(masks, PackedMasks) else layout(masks)


def _bytes(layout: Layout) -> int:
    return max((place.end for place in layout.values()), default=0)
