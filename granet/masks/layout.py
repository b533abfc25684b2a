"""Storage order: how weights lie in memory, and how they are processed piece by piece.

Everything flat follows *storage order*: the order in which the entries of a tensor lie in memory, whatever its memory
format is. So a weight in channels_last and its mask are both read from front to back. *Logical* order, that of
``tensor.reshape(-1)``, is what ties are broken by.

A layout assigns each layer of a network a span in a row of bits, one bit for each weight; each layer begins with a new
byte. A piece is a part of that row small enough to be processed at once.
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
"""Bytes of a mask processed at a time: they fit a CPU's cache, and are worth a GPU's launch."""


def storage_order(tensor: Tensor) -> Order:
    """Return the dimensions of ``tensor`` by falling stride.

    The natural order if its entries are not dense in memory, such as those of a slice.
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
    """Return the entries of ``tensor`` in ``order``, 1-D: a view if they are stored so, else a copy."""
    return tensor.permute(order).reshape(-1)


def in_shape(entries: Tensor, shape: Sequence[int], order: Order) -> Tensor:
    """Return a view of ``entries``, which are in ``order``, as a tensor of that shape: the inverse of ``flat``."""
    inverse = [order.index(dim) for dim in range(len(order))]
    return entries.view([shape[dim] for dim in order]).permute(inverse)


class Entries(Protocol):
    """A flat tensor, or what computes one: slices are read."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the slices."""

    def __getitem__(self, part: slice, /) -> Tensor:
        """Return the entries of ``part``."""


def flattened(tensors: Mapping[str, Tensor], layout: Mapping[str, LayerSpan]) -> dict[str, Tensor]:
    """Return ``flat`` of each layer of ``layout``."""
    return {name: flat(tensors[name].detach(), span.order) for name, span in layout.items()}


@dataclass(frozen=True)
class LayerSpan:
    """The bytes ``start`` to ``end`` of a row of bits, which hold a layer; the last one may have unused bits."""

    shape: tuple[int, ...]
    order: Order
    start: int

    @cached_property
    def size(self) -> int:
        """Number of weights of the layer."""
        return prod(self.shape)

    @cached_property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + -(-self.size // 8)

    @property
    def plain(self) -> bool:
        """Whether storage order is logical order."""
        return self.order == tuple(range(len(self.shape)))

    def logical(self, positions: Tensor) -> Tensor:
        """Return the logical positions of storage ``positions`` within the layer."""
        index, rest = torch.zeros_like(positions), positions
        for dim in reversed(self.order):
            rest, coordinate = kernels.divided(rest, self.shape[dim])
            index += coordinate.mul_(prod(self.shape[dim + 1 :]))
        return index


def only_device(tensors: Mapping[str, Tensor]) -> torch.device:
    """Return the device of all ``tensors``.

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
    """The spans of some layers by parameter name. Immutable: what is derived from it is cached."""

    @classmethod
    def of(cls, like: Mapping[str, Tensor]) -> Layout:
        """Return consecutive spans for tensors with the shapes and memory formats of ``like``."""
        spans, start = cls(), 0
        for name, tensor in like.items():
            spans[name] = LayerSpan(tuple(tensor.shape), storage_order(tensor), start)
            start = spans[name].end
        return spans

    def only(self, names: Iterable[str]) -> Layout:
        """Return the spans of some of the layers, unchanged."""
        chosen = Layout({name: self[name] for name in names})
        return self if len(chosen) == len(self) else chosen

    @cached_property
    def bytes(self) -> int:
        """Number of bytes up to the end of the last span."""
        return max((span.end for span in self.values()), default=0)

    @cached_property
    def size(self) -> int:
        """Number of weights of all layers."""
        return sum(span.size for span in self.values())

    def pieces(self, device: torch.device) -> Sequence[Piece]:
        """Return all layers in order, in pieces of bounded size."""
        return self.pieces_of(PIECE if device.type == "cpu" else 4 * PIECE)

    def pieces_of(self, most: int) -> Sequence[Piece]:
        """Return all layers in order, in pieces of at most so many bytes of a mask."""
        if most not in self._pieces:
            self._pieces[most] = list(_pieces(self, most))
        return self._pieces[most]

    @cached_property
    def _pieces(self) -> dict[int, Sequence[Piece]]:
        return {}


@dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive bytes of a layout: a part of a layer, or several layers.

    Attributes:
        parts: name and span of each layer, and which of its entries are in the piece, in storage order.
        bytes: which bytes.
    """

    parts: Sequence[tuple[str, LayerSpan, slice]]
    bytes: slice

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Number of bytes of each part."""
        return [-(-(part.stop - part.start) // 8) for _, _, part in self.parts]

    @cached_property
    def shares(self) -> Sequence[tuple[str, slice, slice]]:
        """Name of each layer, which of its entries are in the piece, and which bits of the piece those are."""
        begins = (8 * (span.start - self.bytes.start) if part.start == 0 else 0 for _, span, part in self.parts)
        return [
            (name, part, slice(begin, begin + part.stop - part.start))
            for begin, (name, _, part) in zip(begins, self.parts, strict=True)
        ]

    def clear_spare(self, bits: Tensor) -> None:
        """Clear the unused ``bits`` at the end of layers whose size is not a multiple of 8."""
        for _, _, share in self.shares:
            if share.stop % 8:
                bits[share.stop // 8] &= (1 << share.stop % 8) - 1

    def gather(self, entries: Mapping[str, Entries]) -> Tensor:
        """Return the piece of ``flattened`` tensors, one entry a bit, 0 for unused ones: a view if possible."""
        found: list[Tensor] = []
        for name, _, part in self.parts:
            found.append(entries[name][part])
            if spare := -found[-1].numel() % 8:
                found.append(found[-1].new_zeros(spare))
        return found[0] if len(found) == 1 else torch.cat(found)


def _pieces(layout: Layout, most: int) -> Iterator[Piece]:
    parts: list[tuple[str, LayerSpan, slice]] = []
    begin = end = 0
    for name, span in layout.items():
        if span.end == span.start:
            continue
        if parts and (span.start != end or span.end - begin > most):
            yield Piece(parts, slice(begin, end))
            parts = []
        if not parts:
            begin = span.start
        if span.end - span.start > most:
            for first in range(span.start, span.end, most):
                last = min(first + most, span.end)
                entries = slice(8 * (first - span.start), min(8 * (last - span.start), span.size))
                yield Piece([(name, span, entries)], slice(first, last))
        else:
            parts.append((name, span, slice(0, span.size)))
        end = span.end
    if parts:
        yield Piece(parts, slice(begin, end))
