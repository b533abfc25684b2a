"""Tracing of the zeros of weights, operator by operator, from the parameters to the products with activations.

A mask saves work if the zeros outside of it arrive where a layer multiplies. A layer that standardises its weight, or
adds something to it, multiplies by other numbers. The tracer follows every weight through what a forward pass computes
of it, and looks at the values that meet an activation. A value, not a rule for each operator, decides: zeros survive a
view, a cast, a product, a sign or a division by the norm, and do not survive the subtraction of a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = frozenset(
    ("convolution", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation")
)
"""Products of two operands; the names with "add" have a summand before them."""
_REARRANGEMENTS = frozenset(
    (
        *("cat", "stack", "index", "index_select", "gather", "take", "masked_select", "embedding", "repeat", "roll"),
        *("flip", "constant_pad_nd", "slice_scatter", "select_scatter", "block_diag", "pixel_shuffle"),
        *("pixel_unshuffle", "im2col", "diag_embed", "permute_copy", "view_copy", "expand_copy"),
    )
)
"""Operators whose results are elements of their arguments, or zeros, in other places."""


@dataclass(kw_only=True)
class _Origin:
    """What the contents of a storage were computed from.

    Attributes:
        tensor: keeps the storage alive, by whose address this is found.
        inactive: by weight, which elements stand where the weight is inactive: bool [elements of the storage].
        sources: all weights that it was computed from; of those that are not in ``inactive`` it is a statistic, such
            as their mean. A constant has none.
        mixed: whether activations went in as well.
        untouched: whether it is a weight itself, which is known to be zero there.
    """

    tensor: Tensor
    inactive: dict[str, Tensor]
    sources: frozenset[str]
    mixed: bool
    untouched: bool = False

    @property
    def statistic_of(self) -> frozenset[str]:
        """Weights whose places it does not have."""
        return self.sources - self.inactive.keys()

    def places(self, tensor: Tensor, weight: str) -> Tensor:
        """Return which elements of a view of the storage stand where the weight is inactive."""
        return self.inactive[weight].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


_Traced = list[tuple[Tensor, _Origin | None]]


class ZeroTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # missing in torch's stubs
    """Context of forward passes in which the zeros of weights are followed.

    Args:
        weights: tensors that the passes use, each with a mask of the places at which it is inactive, and zero.
        constants: further tensors that do not depend on the input: other parameters, and buffers.

    Attributes:
        multiplied: weights that met an activation and were zero where they are inactive.
        spilled: by weight, the operator at which something computed from it met an activation that was not zero there.
        replaced: by weight, the operator at which a statistic of it met an activation.
    """

    def __init__(self, weights: Mapping[str, tuple[Tensor, Tensor]], constants: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiplied: set[str] = set()
        self.spilled: dict[str, str] = {}
        self.replaced: dict[str, str] = {}
        self._origins: dict[int, _Origin] = {}
        for constant in constants:
            self._trace(constant, {}, frozenset(), mixed=False)
        for name, (weight, inactive) in weights.items():
            self._trace(weight, {name: inactive}, frozenset({name}), mixed=False)
            self._origins[_address(weight)].untouched = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; judge what meets activations in it, and trace its results."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        inputs: _Traced = [(tensor, self._origin(tensor)) for tensor in _tensors((args, kwargs))]
        if func.is_view or (inputs and all(origin is None for _, origin in inputs)):
            return func(*args, **kwargs)  # a view has the storage, and so the origin, of its base
        if name.endswith("_like") or name.startswith("new_"):
            inputs = []  # whose values do not matter
        elif name in ("copy", "copy_"):
            inputs = inputs[1:]  # the first one is overwritten
        elif name in _PRODUCTS:
            inputs = inputs[1:3] if "add" in name else inputs[:2]
        meets = any(origin is None or origin.mixed for _, origin in inputs)
        if name in _PRODUCTS:  # in which constants are what activations are elsewhere: coordinates, learned tokens
            constant = [origin is not None and not origin.sources for _, origin in inputs]
            meets = meets or (any(constant) and not all(constant))
        elementwise = torch.Tag.pointwise in func.tags or name in ("copy", "copy_")
        nonzero = {weight for tensor, origin in inputs for weight in _nonzero(tensor, origin)}
        if meets:
            self._judge(name, inputs, nonzero, final=not elementwise and name not in _REARRANGEMENTS)
        output = func(*args, **kwargs)
        if name in _PRODUCTS and meets:
            return output
        for result in _tensors(output):
            if self._origin(result) is not None and not func._schema.is_mutable:
                continue  # an argument itself
            if elementwise:
                inactive = _broadcast(inputs, result)
            elif name in _REARRANGEMENTS:
                inactive = _rearranged(func, args, kwargs, inputs, result)
            else:
                inactive = (
                    {} if meets else _broadcast([pair for pair in inputs if pair[0].shape == result.shape], result)
                )
            if meets:
                # What was a product with an activation, and is not zero any more, as with a bias, does not have to be.
                products = {weight for _, origin in inputs if origin and origin.mixed for weight in origin.inactive}
                products -= nonzero | {weight for _, origin in inputs if origin for weight in origin.statistic_of}
                inactive = {
                    weight: places
                    for weight, places in inactive.items()
                    if weight not in products or not _any_nonzero(result, places)
                }
            if inactive or all(origin is not None for _, origin in inputs):
                sources = frozenset[str]().union(*(origin.sources for _, origin in inputs if origin is not None))
                self._trace(result, inactive, sources, mixed=meets)
        return output

    def _judge(self, operator: str, inputs: _Traced, nonzero: set[str], *, final: bool) -> None:
        """Note what became of weights in an operator whose arguments depend on weights and on activations.

        Args:
            operator: its name.
            inputs: its arguments.
            nonzero: weights of which an argument is not zero where they are inactive.
            final: whether the result is an activation and no longer a weight.
        """
        for _, origin in inputs:
            if origin is None:
                continue
            if not origin.mixed:
                for weight in origin.statistic_of:
                    self.replaced.setdefault(weight, operator)
            for weight in origin.inactive:
                if weight not in nonzero:
                    self.multiplied.add(weight)
                elif final:
                    self.spilled.setdefault(weight, operator)

    def _origin(self, tensor: Tensor) -> _Origin | None:
        origin = self._origins.get(_address(tensor))
        same_elements = origin is not None and origin.tensor.element_size() == tensor.element_size()
        return origin if same_elements else None

    def _trace(self, tensor: Tensor, inactive: Mapping[str, Tensor], sources: frozenset[str], *, mixed: bool) -> None:
        """Note the origin of a tensor, of which another part of the storage may have been traced already."""
        address = _address(tensor)
        if not address:
            return
        known = self._origins.get(address)
        if known is None or known.tensor.element_size() != tensor.element_size():
            known = _Origin(tensor=tensor, inactive={}, sources=frozenset(), mixed=False)
        elements = tensor.untyped_storage().nbytes() // tensor.element_size()
        for weight in known.inactive.keys() | inactive.keys():
            if weight not in known.inactive:
                known.inactive[weight] = torch.zeros(elements, dtype=torch.bool, device=tensor.device)
            places = inactive.get(weight)
            known.places(tensor, weight).copy_(torch.tensor(False) if places is None else places)
        known.sources, known.mixed, known.untouched = known.sources | sources, known.mixed or mixed, False
        self._origins[address] = known


def _address(tensor: Tensor) -> int:
    """Return the address of a tensor's storage; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors, and those of functorch
        return 0


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments or results of an operator, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _any_nonzero(tensor: Tensor, places: Tensor) -> bool:
    """Whether any element at these places is a number other than zero; NaN, of a division by zero, is none."""
    return bool((tensor.ne(0) & tensor.isfinite() & places).any())


def _nonzero(tensor: Tensor, origin: _Origin | None) -> Iterator[str]:
    """Yield the weights at whose inactive places the tensor is not zero."""
    if origin is not None and not origin.untouched:
        for weight in origin.inactive:
            if _any_nonzero(tensor, origin.places(tensor, weight)):
                yield weight


def _broadcast(inputs: _Traced, result: Tensor) -> dict[str, Tensor]:
    """Return the places of the result of an elementwise operator at which an argument is inactive, by weight."""
    inactive: dict[str, Tensor] = {}
    for tensor, origin in inputs:
        if origin is None:
            continue
        for weight in origin.inactive:
            places = origin.places(tensor, weight).expand(result.shape)
            inactive[weight] = inactive[weight] | places if weight in inactive else places
    return inactive


def _rearranged(func: Any, args: Any, kwargs: Any, inputs: _Traced, result: Tensor) -> dict[str, Tensor]:
    """Return the places to which a rearrangement moves inactive ones, by weight: it is run on ones and zeros."""
    inactive: dict[str, Tensor] = {}
    origins = {id(tensor): origin for tensor, origin in inputs if origin is not None and origin.inactive}
    for weight in {weight for origin in origins.values() for weight in origin.inactive}:

        def marked(value: Any, weight: str = weight) -> Any:
            if isinstance(value, tuple | list):
                return type(value)(map(marked, value))
            if not isinstance(value, Tensor):
                return value
            origin = origins.get(id(value))
            if origin is not None and weight in origin.inactive:
                return origin.places(value, weight).to(result.dtype)
            return torch.zeros_like(value) if value.is_floating_point() else value

        moved = func(*marked(args), **{key: marked(value) for key, value in kwargs.items()})
        inactive[weight] = moved != 0
    return inactive
