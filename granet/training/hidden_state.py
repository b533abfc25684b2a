"""State that training changes and checkpoints do not hold: counters, tensors and generators in plain attributes.

Whether it matters is tried: a copy that gets what a checkpoint holds of the trained one has to compute the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from granet.errors import ModelError, listing
from granet.models import extra_state

_TORCHS_OWN = vars(nn.Module()).keys()
"""Attributes that every module has."""


def check(model: nn.Module, trained: nn.Module, spare: nn.Module, compute: Callable[[nn.Module], Tensor]) -> None:
    """Check that a checkpoint holds all that a pass in training mode changed, as far as the outputs depend on it.

    Costs nothing but a look at attributes where none of them changed. A network whose outputs vary all the same, such
    as by a random generator of another library, is not judged.

    Args:
        model: the network as it was.
        trained: a copy of it after the pass.
        spare: another copy.
        compute: returns the outputs of a network. An error that it raises in a mode leaves that mode out.

    Raises:
        ModelError: the outputs depend on state that no checkpoint holds.
    """
    changed = list(_changed(model, trained))
    if not changed:
        return
    extra_state.load(spare, extra_state.collect(trained, {}))  # its weights are shared
    again = copy.deepcopy(spare, {id(parameter): parameter for parameter in spare.parameters()})
    for training in (False, True):
        try:
            found = [_outputs(network.train(training), compute) for network in (trained, spare, again)]
        except Exception:  # noqa: S112  the trial of that mode says it
            continue
        if torch.equal(found[1], found[2]) and not torch.equal(found[0], found[1]):
            raise ModelError(
                "training changes what no checkpoint holds, so that a saved network would compute something else",
                where=type(model).__name__,
                got=f"{listing(changed, 3)}, in plain attributes",
                remedy="keep tensors in buffers (register_buffer) and the rest in get_extra_state and set_extra_state",
            )


def _outputs(network: nn.Module, compute: Callable[[nn.Module], Tensor]) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return compute(network)


def _changed(model: nn.Module, trained: nn.Module) -> Iterator[str]:
    """Yield names of the plain attributes that differ, of modules without extra state of their own."""
    stateful = set(map(id, extra_state.stateful(trained).values()))
    before = dict(model.named_modules())
    for name, module in trained.named_modules():
        if id(module) in stateful or name not in before:
            continue
        old, new = vars(before[name]), vars(module)
        for key in sorted(old.keys() | new.keys() - _TORCHS_OWN):
            if key not in _TORCHS_OWN and not _same(old.get(key), new.get(key)):
                yield f"{name}.{key}" if name else key


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, as far as they are numbers, tensors, generators, or collections of these."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, torch.Generator) and isinstance(other, torch.Generator):
        return torch.equal(one.get_state(), other.get_state())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str | bytes):
        return len(one) == len(other) and all(map(_same, one, other))
    plain = bool | int | float | complex | str | bytes | None
    if isinstance(one, plain) or isinstance(other, plain):
        return type(one) is type(other) and (one == other or one != one)
    return type(one) is type(other)  # objects of other kinds are not looked into
