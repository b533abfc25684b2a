"""The order in which weights lie in memory, and working on them piece by piece.

Everything flat follows *storage order*: the order in which the entries of a tensor lie in memory, whatever its memory
format is. So a weight in channels_last and its mask are both read from front to back. *Logical* order, that of
``tensor.reshape(-1)``, is what ties are broken by.

A layout gives the layers of a network places in a row of bits, one bit for each weight, each layer beginning with a new
byte. A piece is a part of such a row that is small enough to be worked on at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from granet.errors import UsageError
from granet.masks import kernels

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


def flattened(tensors: Mapping[str, Tensor], layout: Mapping[str, LayerSpan]) -> dict[str, Tensor]:
    """``flat`` for every layer of ``layout``."""
    return {name: flat(tensors[name].detach(), place.order) for name, place in layout.items()}


@dataclass(frozen=True)
class LayerSpan:
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
            rest, coordinate = kernels.divided(rest, self.shape[dim])
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


class Layout(dict[str, LayerSpan]):
    """The places of some layers by parameter name. Not to be changed: what is found out about it is kept."""

    @classmethod
    def of(cls, like: Mapping[str, Tensor]) -> Layout:
        """Places for tensors shaped and laid out as those of ``like``, one after the other."""
        places, start = cls(), 0
        for name, tensor in like.items():
            places[name] = LayerSpan(tuple(tensor.shape), storage_order(tensor), start)
            start = places[name].end
        return places

    def only(self, names: Iterable[str]) -> Layout:
        """Those of some of the layers, where they are."""
        chosen = Layout({name: self[name] for name in names})
        return self if len(chosen) == len(self) else chosen

    @cached_property
    def bytes(self) -> int:
        """As many as there are, those before the first place included."""
        return max((place.end for place in self.values()), default=0)

    @cached_property
    def size(self) -> int:
        """Weights of all layers."""
        return sum(place.size for place in self.values())

    def pieces(self, device: torch.device) -> Sequence[Piece]:
        """All layers in order, in pieces of a bounded size."""
        most = PIECE if device.type == "cpu" else 4 * PIECE
        if most not in self._pieces:
            self._pieces[most] = list(_pieces(self, most))
        return self._pieces[most]

    @cached_property
    def _pieces(self) -> dict[int, Sequence[Piece]]:
        return {}


@dataclass(frozen=True, eq=False)
class Piece:
    """Some consecutive bytes of a layout: a part of a layer, or several layers.

    Attributes:
        parts: the layers with the entries of each that are in it, in storage order.
        bytes: which bytes.
    """

    parts: Sequence[tuple[str, LayerSpan, slice]]
    bytes: slice

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Bytes of each part."""
        return [-(-(part.stop - part.start) // 8) for _, _, part in self.parts]

    @cached_property
    def shares(self) -> Sequence[tuple[str, slice, slice]]:
        """Each layer in it, which of the layer's entries are in it, and where they are among the bits."""
        begins = (8 * (place.start - self.bytes.start) if part.start == 0 else 0 for _, place, part in self.parts)
        return [
            (name, part, slice(begin, begin + part.stop - part.start))
            for begin, (name, _, part) in zip(begins, self.parts, strict=True)
        ]

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


def _pieces(layout: Layout, most: int) -> Iterator[Piece]:
    parts: list[tuple[str, LayerSpan, slice]] = []
    begin = end = 0
    for name, place in layout.items():
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
