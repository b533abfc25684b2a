"""Dead channels of a network, and what to do to its tensors to remove them without changing its outputs.

1. Forwards, by the rules of operators: which channels are constant, which are coupled, which constants move into which
   bias.
2. Backwards: on which channels the outputs depend. A weight that is zero reads nothing, and neither does one whose
   output is dead, so that one pass finds everything that the removal of something else makes dead.
3. A group of coupled channels is removed when all of them are dead. One channel of every tensor stays all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from granet.coupling.analysis import Analysis, ConstantFold, CoupledLayer
from granet.coupling.channels import KEPT
from granet.coupling.operators import analyse
from granet.coupling.tracing import Trace
from granet.errors import listing


@dataclass(frozen=True, kw_only=True, eq=False)
class RemovalPlan:
    """The changes to a network that remove its dead channels.

    Attributes:
        kept: by parameter or buffer and axis the indices that stay, int64, ascending; whole axes are left out.
        folds: to do first; none where nothing is removed.
        layers: convolutions and linear layers in the order of first use.
        notes: what stays, and why.
    """

    kept: Mapping[str, Mapping[int, Tensor]]
    folds: tuple[ConstantFold, ...]
    layers: tuple[CoupledLayer, ...]
    notes: tuple[str, ...]


def plan(trace: Trace) -> RemovalPlan:
    """Return what can be removed from a traced network without changing its outputs."""
    analysis = analyse(trace)
    analysis.propagate_liveness()
    kept = _kept(analysis)
    return RemovalPlan(
        kept=kept,
        folds=tuple(analysis.folds) if kept else (),
        layers=tuple(analysis.layers.values()),
        notes=tuple(_notes(analysis)),
    )


def _kept(analysis: Analysis) -> dict[str, dict[int, Tensor]]:
    groups = analysis.coupling.groups()
    stays = np.zeros(groups.size, np.bool_)
    stays[KEPT] = True
    for feature in analysis.features.values():
        stays[groups[feature.channels[feature.live]]] = True
    for feature in analysis.features.values():
        if not stays[groups[feature.channels]].any():  # a layer is never emptied; any channel of it will do
            stays[groups[feature.channels[:1]]] = True
    kept: dict[str, dict[int, Tensor]] = {}
    for name, axes in analysis.coupling.axes.items():
        for axis, channels in axes.items():
            flags = stays[groups[channels]]
            if not flags.all():
                kept.setdefault(name, {})[axis] = torch.from_numpy(flags.nonzero()[0])
    return kept


def _notes(analysis: Analysis) -> list[str]:
    notes = [
        f"{count} constant input{'s stay' if count > 1 else ' stays'}: {reason} needs {'them' if count > 1 else 'it'}"
        for reason, count in sorted(analysis.unfoldable.items())
        if count
    ]
    notes += [
        f"all channels before {name} stay: it is not known to treat them one by one "
        f"({'once' if count == 1 else f'{count} times'})"
        for name, count in sorted(analysis.unknown.items())
    ]
    trace = analysis.trace
    idle = [name for name in trace.tensors if not trace.uses.get(name) and not name.endswith("num_batches_tracked")]
    if idle:
        notes.append(f"{listing(idle)} take no part in evaluation and are left as they are")
    return notes
