"""Compaction of a network: copy, trace, plan, shrink, prove, count."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from exporters.compaction import proof
from exporters.compaction.report import Compacted, LayerChange
from exporters.compaction.surgery import shrink
from granet import flops
from granet.coupling.analysis import CoupledLayer
from granet.coupling.removal import plan
from granet.coupling.tracing import named_tensors, trace
from granet.errors import ModelError, UsageError
from granet.files.user_code import described
from granet.layers.maskable import unwrap


def compact(model: nn.Module, example: tuple[Tensor, ...]) -> Compacted:
    """Return the same network without its dead channels, for inference; docs/compaction.md says which those are.

    The smaller network is compared with the original on the example and on noise before it is returned.

    Args:
        model: any network that ``torch.export`` takes; analysed in evaluation mode, and left as it is. Masks have to
            be applied: only weights that are zero count as such.
        example: the arguments of one forward pass, on the device of the network. Their values do not matter.

    Returns:
        The smaller network and what became smaller; with ``removed == 0`` a copy of the original.

    Raises:
        UsageError: there is no example.
        ModelError: the network cannot be copied, traced or run, or the result computes something else.
    """
    if not isinstance(example, tuple) or not example or not all(isinstance(value, Tensor) for value in example):
        raise UsageError("the arguments of a forward pass have to be a tuple of tensors", where="example")
    original = unwrap(model)
    smaller = _copy(original)
    inputs = proof.trials(example)
    expected = _expected(smaller, inputs)
    planned = plan(trace(smaller, example))
    before, costs, unknown = _shapes(smaller), *_costs(smaller, example)
    difference = 0.0
    if planned.kept:
        shrink(smaller, planned)
        difference = proof.prove(original, smaller, expected, inputs)
    costs_after = _costs(smaller, example)[0]
    layers = _changes(planned.layers, before, _shapes(smaller), costs, costs_after)
    return Compacted(
        model=smaller,
        layers=layers,
        flops_before=None if costs is None else sum(costs.values()),
        flops_after=None if costs_after is None else sum(costs_after.values()),
        parameters_before=sum(parameter.numel() for parameter in original.parameters()),
        parameters_after=sum(parameter.numel() for parameter in smaller.parameters()),
        removed=sum(layer.outputs - layer.outputs_kept for layer in layers),
        difference=difference,
        notes=(*([] if planned.kept else ["there is nothing to remove"]), *planned.notes, *unknown),
    )


def _copy(model: nn.Module) -> nn.Module:
    for name, tensor in named_tensors(model).items():
        if tensor.is_meta:
            raise ModelError("there are no weights to look at", where=name, got="a tensor on the meta device")
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        raise ModelError("the network cannot be copied", where=type(model).__name__, got=described(error)) from error


def _expected(model: nn.Module, inputs: list[proof.Inputs]) -> list[list[Tensor]]:
    try:
        expected = proof.outputs(model, inputs)
    except Exception as error:
        raise ModelError(
            "the network does not run on the example",
            where=type(model).__name__,
            got=described(error),
        ) from error
    if not all(tensor.isfinite().all() for tensors in expected for tensor in tensors):
        raise ModelError(
            "the outputs are not finite, so that nothing could be compared with them", where=type(model).__name__
        )
    return expected


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def _costs(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[dict[str, float] | None, list[str]]:
    """Return dense FLOPs by weight, or None and the reason."""
    if len(example) > 1 or example[0].ndim < 2:
        return None, ["FLOPs are counted for networks that take one batch of examples, and are unknown here"]
    try:
        return flops.layers(model, example[0].shape[1:]), []
    except ModelError as error:
        return None, [f"FLOPs are unknown: {error}"]


def _changes(
    layers: Sequence[CoupledLayer],
    before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
    costs: Mapping[str, float] | None,
    costs_after: Mapping[str, float] | None,
) -> tuple[LayerChange, ...]:
    changes = []
    for layer in layers:
        shape, shape_after = before[layer.weight], after[layer.weight]
        inputs, outputs = layer.width(shape, rows=shape[0])
        inputs_kept, outputs_kept = layer.width(shape_after, rows=shape[0])
        changes.append(
            LayerChange(
                name=layer.weight,
                inputs=inputs,
                inputs_kept=inputs_kept,
                outputs=outputs,
                outputs_kept=outputs_kept,
                parameters=math.prod(shape),
                parameters_kept=math.prod(shape_after),
                flops=None if costs is None else costs.get(layer.weight, 0.0),
                flops_kept=None if costs_after is None else costs_after.get(layer.weight, 0.0),
            )
        )
    return tuple(changes)
