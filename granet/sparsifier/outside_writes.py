"""What others change after a sparsifier was made: weights, optimizer state, and layers themselves.

Between two optimizer steps nobody else should write to masked weights or to their optimizer state. Somebody does where
a state is loaded, averaged weights are swapped in or a layer is initialised anew. It is noticed by what torch keeps
anyway: version counters, addresses and identities, a few integers a layer and no look at a value. What is written
through ``.data`` or a shared array leaves none of these: see ``granet.sparsifier.sweep``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from granet.errors import UsageError

_version = attrgetter("_version")


class OutsideWrites:
    """Notices what others than the optimizer and the sparsifier change; see the module.

    Args:
        model: holds the parameters by these names.
        parameters: the masked ones.
        optimizer: that of the sparsifier.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._kinds = [_kind(parameter) for parameter in self._parameters]
        self._places = list(_places(model, self._names))
        self._optimizer = optimizer
        self._grouped = self._grouped_now()
        self._addresses: list[int] = []
        self._slots: list[Tensor] = []
        self.remember()

    def remember(self) -> bool:
        """Take weights and state as they are for what belongs there; return whether the state has other tensors now."""
        addresses, slots = self._addresses_now(), self._slots_now()
        if addresses != self._addresses:
            self._addresses = addresses
            self._aliases = [parameter.detach() for parameter in self._parameters]  # so that no address is used again
        self._written: int = sum(map(_version, self._parameters))
        renewed = not _same(slots, self._slots)
        self._slots = slots
        self._slots_written: int = sum(map(_version, slots))
        return renewed

    def in_weights(self) -> bool:
        """Return whether a weight was written or replaced since ``remember``.

        Raises:
            UsageError: it has another device, dtype or shape now.
        """
        if self._addresses_now() == self._addresses:
            return bool(self._written != sum(map(_version, self._parameters)))
        for name, parameter, kind in zip(self._names, self._parameters, self._kinds, strict=True):
            for what, got, expected in zip(_KINDS, _kind(parameter), kind, strict=True):
                if got != expected:
                    raise UsageError(
                        f"the model {what} after the sparsifier was made",
                        where=name,
                        got=got,
                        expected=expected,
                        remedy="move and convert the model first, then make optimizer and sparsifier",
                    )
        return True

    def in_slots(self) -> bool:
        """Return whether optimizer state of a masked weight was written or replaced since ``remember``."""
        slots = self._slots_now()
        return not _same(slots, self._slots) or bool(self._slots_written != sum(map(_version, slots)))

    def in_groups(self) -> bool:
        """Return whether the optimizer holds other parameters than when this was asked before."""
        before, self._grouped = self._grouped, self._grouped_now()
        return not _same(before, self._grouped)

    def check_layers(self) -> None:
        """Check that the masked weights are still those of the model.

        Raises:
            UsageError: a layer or its weight was replaced.
        """
        for members, key, member, name in self._places:
            if members.get(key) is not member:
                raise UsageError(
                    "the layer has another weight than when the sparsifier was made",
                    where=name,
                    remedy="replace, tie, shard or parametrize layers first, then make optimizer and sparsifier; load "
                    "weights without assign=True",
                )

    def _addresses_now(self) -> list[int]:
        return [*map(Tensor.data_ptr, self._parameters)]

    def _slots_now(self) -> list[Tensor]:
        states = map(self._optimizer.state.get, self._parameters)
        return [slot for state in states if state for slot in state.values() if isinstance(slot, Tensor)]

    def _grouped_now(self) -> list[object]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


_KINDS = ("moved", "was converted", "was resized")


def _kind(parameter: nn.Parameter) -> tuple[object, ...]:
    return parameter.device, parameter.dtype, parameter.shape


def _same(some: list[Any], others: list[Any]) -> bool:
    """Whether both have the same objects."""
    return len(some) == len(others) and all(map(is_, some, others))


def _places(model: nn.Module, names: list[str]) -> Iterator[tuple[Mapping[str, Any], str, object, str]]:
    """Yield where each parameter is: the members of a module, the name of one, the member, and the parameter's name."""
    seen = set()
    for name in names:
        module = model
        *path, leaf = name.split(".")
        for part in path:
            members, module = module._modules, module.get_submodule(part)
            if (id(members), part) not in seen:
                seen.add((id(members), part))
                yield members, part, module, name
        yield module._parameters, leaf, module._parameters[leaf], name
