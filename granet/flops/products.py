"""Products in a forward pass: which operators multiply and add, how often, and by which parameter.

Operators, not modules, are counted: a weight that reaches ``torch.nn.functional.linear`` by another way than its
module, a packed weight of an attention layer and a matrix product written by hand cost what they cost. Which parameter
a product is of is known from the storage of its operands, which views share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_MATRIX_PRODUCTS = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot"), 0),
    **dict.fromkeys(("addmm", "_addmm_activation", "baddbmm", "addbmm", "addmv"), 1),
}
"""Operators that multiply two matrices or vectors, and how many arguments they have before these two."""

_COPIES = frozenset(("clone", "_to_copy", "copy_", "cat", "stack", "expand_copy"))
"""Operators whose results are the elements of their arguments."""


@dataclass(frozen=True)
class _Origin:
    """What a storage that does not depend on the input consists of.

    Attributes:
        tensor: keeps the storage from becoming another's.
        shares: by parameter, the share of the elements that it has; none for a constant.
        is_copy: whether its elements are those of the parameters, and nothing computed from them.
    """

    tensor: Tensor
    shares: Mapping[str, float]
    is_copy: bool


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # missing in torch's stubs
    """Context of a forward pass whose products are counted, on tensors with or without data.

    Args:
        parameters: of the network, by name.
        constants: further tensors that do not depend on the input, such as buffers.

    Attributes:
        operations: floating-point operations, a multiplication and an addition for each product, by name of the
            parameter that activations are multiplied by, in the order of first use.
        as_they_are: parameters of which a product is, and not of something computed from them.
        without_weights: those of products of activations with each other, as in attention, or with constants.
    """

    def __init__(self, parameters: Mapping[str, Tensor], constants: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: dict[str, float] = {}
        self.as_they_are: set[str] = set()
        self.without_weights = 0.0
        self._origins: dict[int, _Origin] = {}
        for constant in constants:
            self._keep(constant, {}, is_copy=True)
        for name, parameter in parameters.items():
            self._keep(parameter, {name: 1.0}, is_copy=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, count its products, and note which parameters its results consist of."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        factors = _factors(name, args)
        if not factors:
            with self:  # an operator made of others, which torch.inference_mode does not take apart
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if func.is_view:
            return output  # it has the storage, and so the origin, of its base
        inputs = list(_tensors((args, kwargs)))
        origins = [origin for tensor in inputs if (origin := self._origin(tensor)) is not None]
        if factors:
            self._count(_products(name, args, output), factors)
        before = () if func._schema.is_mutable else {_storage(tensor) for tensor in inputs}
        for result in _tensors(output):
            if _storage(result) in before:
                continue  # an argument itself
            if len(origins) == len(inputs):
                shares = {} if factors else _shares(name, inputs, origins)
                self._keep(result, shares, is_copy=name in _COPIES and all(origin.is_copy for origin in origins))
            else:
                self._origins.pop(_storage(result), None)
        return output

    def _count(self, products: float, factors: tuple[Tensor, ...]) -> None:
        """Add products to the parameters of the last factor that has any: layers put their weight behind its input."""
        origins = [origin for factor in factors if (origin := self._origin(factor)) is not None and origin.shares]
        if not origins:
            self.without_weights += 2.0 * products
            return
        for name, share in origins[-1].shares.items():
            self.operations[name] = self.operations.get(name, 0.0) + 2.0 * products * share
            if origins[-1].is_copy:
                self.as_they_are.add(name)

    def _origin(self, tensor: Tensor) -> _Origin | None:
        """Return what a tensor consists of; None for activations, which depend on the input."""
        return self._origins.get(_storage(tensor))

    def _keep(self, tensor: Tensor, shares: Mapping[str, float], *, is_copy: bool) -> None:
        self._origins[_storage(tensor)] = _Origin(tensor, shares, is_copy)


def _shares(operator: str, inputs: Sequence[Tensor], origins: Sequence[_Origin]) -> Mapping[str, float]:
    """Return the parameters that the result of an operator on weights and constants consists of, and their shares."""
    if operator not in ("cat", "stack"):
        # Of a weight and its gain, or its mean, the largest one is the weight.
        largest = max(range(len(inputs)), key=lambda n: (bool(origins[n].shares), inputs[n].numel()), default=None)
        return {} if largest is None else origins[largest].shares
    total, shares = sum(tensor.numel() for tensor in inputs) or 1, dict[str, float]()
    for tensor, origin in zip(inputs, origins, strict=True):
        for name, share in origin.shares.items():
            shares[name] = shares.get(name, 0.0) + share * tensor.numel() / total
    return shares


def _storage(tensor: Tensor) -> int:
    """Return what identifies the storage of a tensor, with data or without; the tensor itself where it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors
        return id(tensor)


def _factors(operator: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Return the tensors that an operator multiplies and adds; none for one that does something else."""
    if operator in _MATRIX_PRODUCTS:
        before = _MATRIX_PRODUCTS[operator]
        return tuple(args[before : before + 2])
    if operator == "convolution":
        return tuple(args[:2])
    if operator == "_trilinear":
        return args[0], args[2], args[1]
    if operator.startswith("_scaled_dot_product"):
        return tuple(args[:3])
    return ()


def _products(operator: str, args: tuple[Any, ...], output: Any) -> float:
    """Return the multiplications of an operator that are summed up."""
    if operator == "convolution":
        # All weights of an output make each output value; in a transposed convolution all those of an input take part
        # in what becomes of each input value.
        values, weight, is_transposed = args[0], args[1], args[6]
        return float((values if is_transposed else output).numel() * weight[0].numel())
    if operator == "_trilinear":
        left, weight, right = args[:3]
        return float(left.numel() // left.shape[-1] * weight.numel())
    if operator.startswith("_scaled_dot_product"):
        query, key, value = args[:3]
        return float(
            query.numel() * key.shape[-2] + query.numel() // query.shape[-1] * value.shape[-2] * value.shape[-1]
        )
    left, right = _factors(operator, args)
    return float(left.numel() * (right.shape[-1] if right.dim() > 1 else 1))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments or results of an operator."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
