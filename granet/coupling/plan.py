"""From a traced network to what can go: rules are applied forwards, needs are played backwards, groups are decided.

1. Forwards: which channels are constant, what is tied to what, which constants move into which bias.
2. Backwards: which channels are needed by the outputs. A weight that is zero needs nothing, and neither does one
   whose output is not needed, so that one pass finds everything that becomes useless by the removal of something else.
3. A group of tied channels goes when none of them is needed. One channel of every tensor stays all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from granet.coupling import elementwise, rearranging
from granet.coupling.contraction import contraction
from granet.coupling.features import Feature
from granet.coupling.state import Analysis, CoupledLayer, Fold, Rule
from granet.coupling.tracing import Trace, operation, overload
from granet.errors import listing


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# All of them are finite where their argument is: see `binary` for why it matters.
_FUNCTIONS = _words("""
    abs celu clamp clamp_max clamp_min elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid mish
    neg relu relu6 rsub selu sigmoid silu softplus softshrink square tanh threshold
""")
_POOLING = _words("""
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
""")
_LAYERS = _words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear")
_COPIES = _words("alias alpha_dropout clone contiguous detach dropout feature_alpha_dropout feature_dropout to")

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_LAYERS, contraction),
    **dict.fromkeys(_FUNCTIONS, elementwise.elementwise),
    **dict.fromkeys(("add", "div", "maximum", "minimum", "mul", "sub"), elementwise.binary),
    **dict.fromkeys(_COPIES, elementwise.identity),
    **dict.fromkeys(("batch_norm", "instance_norm"), elementwise.normalisation),
    **dict.fromkeys(_POOLING, rearranging.pooling),
    **dict.fromkeys(("amax.default", "mean.dim"), rearranging.reduction),
    **dict.fromkeys(("permute.default", "swapaxes.default", "transpose.int"), rearranging.permutation),
    **dict.fromkeys(("select.int", "slice.Tensor", "squeeze.dim"), rearranging.piece),
    **dict.fromkeys(("flatten.using_ints", "reshape.default", "view.default"), rearranging.flattening),
    **dict.fromkeys(("constant_pad_nd.default", "pad.default"), rearranging.padding),
    "cat.default": rearranging.concatenation,
    "getitem": rearranging.item,
    "prelu.default": elementwise.prelu,
    "unsqueeze.default": rearranging.insertion,
}
"""Rules by the name of the operator, with its overload where others need another rule."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RemovalPlan:
    """What to do to a network."""

    kept: Mapping[str, Mapping[int, Tensor]]
    """By parameter or buffer and dimension the indices that stay, int64, ascending; whole dimensions are left out."""
    folds: tuple[Fold, ...]
    """What to do first. Nothing is folded where nothing goes."""
    layers: tuple[CoupledLayer, ...]
    """Convolutions and linear layers in the order of first use."""
    notes: tuple[str, ...]
    """What stays, and why."""


def plan(trace: Trace) -> RemovalPlan:
    """What can go from a traced network without any change to what it computes."""
    at = Analysis(trace)
    for node in trace.nodes:
        if node.op != "placeholder" and (feature := _apply(at, node)) is not None:
            at.features[node] = feature
    for needs in reversed(at.tape):
        needs()
    kept = _kept(at)
    return RemovalPlan(
        kept=kept,
        folds=tuple(at.folds) if kept else (),
        layers=tuple(at.layers.values()),
        notes=tuple(_notes(at)),
    )


def _apply(at: Analysis, node: Node) -> Feature | None:
    """What is known of the result of an operator; all its arguments are held when nothing is."""
    name = operation(node)
    rule = RULES.get(f"{name}.{overload(node)}", RULES.get(name))
    feature = None if rule is None or node in at.trace.opaque else rule(at, node)
    if feature is None:
        told_apart = [at.hold(argument) for argument in node.all_input_nodes]
        if any(told_apart) and node.op != "output":
            at.held[name] += 1
    return feature


def _kept(at: Analysis) -> dict[str, dict[int, Tensor]]:
    groups = at.ties.groups()
    stays = np.zeros(groups.size, np.bool_)
    stays[0] = True
    for feature in at.features.values():
        stays[groups[feature.slots[feature.needed]]] = True
    for feature in at.features.values():
        # A layer is never emptied. What its last channel holds does not matter to anybody.
        if not stays[groups[feature.slots]].any():
            stays[groups[feature.slots[:1]]] = True
    kept: dict[str, dict[int, Tensor]] = {}
    for name, dimensions in at.ties.dimensions.items():
        for dimension, slots in dimensions.items():
            flags = stays[groups[slots]]
            if not flags.all():
                kept.setdefault(name, {})[dimension] = torch.from_numpy(flags.nonzero()[0])
    return kept


def _notes(at: Analysis) -> list[str]:
    notes = [
        f"{count} constant input{'s stay' if count > 1 else ' stays'}: {reason} needs {'them' if count > 1 else 'it'}"
        for reason, count in sorted(at.stuck.items())
        if count
    ]
    notes += [
        f"all channels before {name} stay: it is not known to treat them one by one ({_times(count)})"
        for name, count in sorted(at.held.items())
    ]
    idle = [
        name for name in at.trace.tensors if not at.trace.uses.get(name) and not name.endswith("num_batches_tracked")
    ]
    if idle:
        notes.append(f"{listing(idle)} take no part in evaluation and are left as they are")
    return notes


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
