"""The course that a run took: what ``course`` foresees, counted from the masks that there really were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from granet.analysis.history import HistoryReport, UpdateReport
from granet.analysis.trajectory import Course, Stage
from granet.layers import flops
from granet.methods.base import Method


def taken(
    history: HistoryReport,
    shapes: Mapping[str, tuple[int, ...]],
    costs: Mapping[str, float],
    method: Method,
    *,
    batch_size: int,
) -> Course:
    """The course of a run from the beginning of its history to its newest checkpoint. Nothing in it is estimated.

    Args:
        history: of the run. What came before it is not part of the course.
        shapes: of the maskable weights.
        costs: dense FLOPs of inference on one image by parameter name, from ``flops.layers``; those without a mask
            count as dense.
        method: of the run, with its durations in steps.
        batch_size: images in each step.
    """
    states = [history.before, *history.updates]
    # FLOPs with the masks of each state; a weight costs what its share of the layer does.
    unmasked = sum(cost for name, cost in costs.items() if name not in shapes)
    sizes = {layer.name: layer.parameters for layer in history.layers}
    spent = [
        unmasked + sum(costs.get(name, 0.0) * count / sizes[name] for name, count in state.layers.items())
        for state in states
    ]
    dense = sum(costs.values())
    total_steps = history.total_steps
    updates = [update.step for update in history.updates]
    return Course(
        total_steps=total_steps,
        parameters=history.parameters,
        shapes=shapes,
        stages=tuple(map(_stage, states)),
        estimated="",
        prunes=tuple((u.step, u.active) for u in history.updates if method.prunes(u.step, total_steps)),
        swaps=tuple(step for step in updates if method.swaps(step, total_steps)),
        updates=len(updates),
        dense_flops=dense,
        first_flops=spent[0],
        active_flops=spent[-1],
        training_flops=batch_size * _training(history, spent, dense, method),
        dense_training_flops=batch_size * (history.step - history.begins_at) * flops.training_step(dense, dense),
        reach=history.end.explored,
        history_bytes=history.bytes,
    )


def _stage(state: UpdateReport) -> Stage:
    return Stage(step=state.step, active=state.active, density=state.density, layers=state.layers)


def _training(history: HistoryReport, spent: Sequence[float], dense: float, method: Method) -> float:
    """FLOPs of all steps, on one image each; ``spent`` are those of inference after each update, the start first."""
    always = method.momentum_decay is not None  # a running sum of gradients needs them dense at every step
    times = [history.begins_at, *(update.step for update in history.updates), history.step]
    total = sum(
        (end - begin) * flops.training_step(sparse, dense, dense_gradient=always)
        for (begin, end), sparse in zip(pairwise(times), spent, strict=True)
    )
    if not always:
        # The step of an update computes with the masks before it, and some need the dense gradient.
        total += sum(
            dense - sparse
            for update, sparse in zip(history.updates, spent, strict=False)
            if method.needs_gradients(update.step, history.total_steps)
        )
    return total
