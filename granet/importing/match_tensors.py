"""Match imported tensors with a network: names, shapes, dtypes and finite values must fit to the last tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from granet.errors import ModelError, listing, nearest, shortened
from granet.importing import leftovers
from granet.importing.names import COUNTER, canonical

MAX_LISTED = 12
"""The most differences of each kind that a message lists."""

MAX_CHOICES, MAX_NAME = 400, 200
"""How many names of how many characters are compared in search of the nearest, which takes time."""

Advice = Callable[[Sequence[str], Sequence[str]], str]
"""From the names that a file lacks, and those that the network lacks, to what the user can try; "" for nothing."""

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)


@dataclass(frozen=True, eq=False)
class Fitted:
    """All parameters and buffers of a network, contiguous, in its order and dtypes.

    ``names`` has the names that a tensor goes by in the network, tied ones several, -> the first of them.
    """

    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]
    names: dict[str, str]
    remarks: tuple[str, ...]


def fit(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    model: str,
    where: str,
    *,
    advice: Advice,
) -> Fitted:
    """Copy the tensors as parameters and persistent buffers of ``network``.

    A dtype is changed where that changes no value, such as from float16 to float32. A tensor that the network has
    under several names may come under any of them. The counters of batch norms may be missing, and are then 0.

    The network may be without data (``granet.models.outline``). ``advice`` is asked when they do
    not fit.

    Raises:
        ModelError: the two do not fit. All differences are named, a great many in part: what is missing, what the
            network does not have, the nearest names of both, other shapes, dtypes, values that are not finite.
    """
    names = canonical(network)
    own = {name: tensor for name, tensor in chain(network.named_parameters(), network.named_buffers()) if name in names}
    found: dict[str, Tensor] = {}
    faults: list[str] = []
    for name, tensor in tensors.items():
        other = found.setdefault(names[name], tensor) if name in names else tensor
        if other is not tensor and not torch.equal(other, tensor):
            faults.append(f"{name}: the network has the same tensor as {names[name]}, the file another one")
    faults += [f"{name}: {fault}" for name in found if (fault := _fault(found[name], own[name]))]
    counters = [name for name in own if name not in found and name.endswith(COUNTER)]
    missing = [name for name in own if name not in found and name not in counters]
    strangers = [name for name in tensors if name not in names]
    if count := len(missing) + len(strangers) + len(faults):
        remedy = advice(missing, strangers)
        lines = [
            *_listed([_misnamed("missing", n, own, strangers) for n in missing[:MAX_LISTED]], len(missing)),
            *_listed([_misnamed("unexpected", n, tensors, missing) for n in strangers[:MAX_LISTED]], len(strangers)),
            *_listed(faults[:MAX_LISTED], len(faults)),
        ]
        raise ModelError(
            f"the file does not fit {model}; {remedy or 'choose the network that it was saved from'}."
            f" The file has {leftovers.groups(tensors)}. Differences: {count}{''.join(lines)}",
            where=where,
        )
    taken = {
        name: tensor.to(own[name].dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in found.items()
    } | {name: torch.zeros((), dtype=own[name].dtype) for name in counters}
    changed = sorted({f"{t.dtype} to {own[name].dtype}" for name, t in found.items() if t.dtype != own[name].dtype})
    remarks = [f"converted without changing a value: {', '.join(changed)}".replace("torch.", "")] if changed else []
    remarks += [f"set to 0, not being in the file: {listing(counters, 2, width=60)}"] if counters else []
    return Fitted(
        weights={name: taken[name] for name, _ in network.named_parameters()},
        buffers={name: taken[name] for name, _ in network.named_buffers() if name in names},
        names=names,
        remarks=tuple(remarks),
    )


def _misnamed(words: str, name: str, shapes: Mapping[str, Tensor], others: Sequence[str]) -> str:
    """Describe a name that one side lacks, with the nearest name that the other side lacks."""
    choices = [other for other in others[:MAX_CHOICES] if len(other) <= MAX_NAME]
    close = nearest(name[:MAX_NAME], choices)
    return f"{words}: {shortened(name, 60)} {list(shapes[name].shape)}" + (f" (nearest: {close})" if close else "")


def _fault(theirs: Tensor, mine: Tensor) -> str | None:
    """Return why a tensor cannot replace another, or None if it can."""
    if theirs.shape != mine.shape:
        return f"shape {list(theirs.shape)}, expected {list(mine.shape)}"
    if theirs.dtype == mine.dtype and not theirs.is_floating_point():
        return None
    if not any(theirs.dtype in kind and mine.dtype in kind for kind in (_FLOATS, _INTEGERS)):
        return f"{theirs.dtype}, expected {mine.dtype}"
    # In the smallest types hardly any operation is there.
    values = theirs.float() if theirs.itemsize == 1 and theirs.is_floating_point() else theirs
    bad = int((~values.isfinite()).sum())
    if bad:
        return f"{bad} of {theirs.numel()} values are not finite"
    if theirs.dtype != mine.dtype and not torch.equal(theirs.to(mine.dtype).to(values.dtype), values):
        return f"{theirs.dtype}, which cannot become {mine.dtype} without changing values"
    return None


def _listed(lines: Sequence[str], count: int) -> list[str]:
    """Return each on a line of its own, and how many of ``count`` are not shown."""
    rest = [f"and {count - len(lines)} more of these"] if count > len(lines) else []
    return [f"\n  {line}" for line in (*lines, *rest)]
