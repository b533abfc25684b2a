"""The trajectory that a run took, counted from its history."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from granet import flops
from granet.analysis.history import HistoryReport
from granet.analysis.trajectory import Stage, Trajectory, inference_flops, training_flops
from granet.methods.base import Method


def measure_trajectory(
    history: HistoryReport,
    shapes: Mapping[str, tuple[int, ...]],
    costs: Mapping[str, float],
    method: Method,
    *,
    batch_size: int,
) -> Trajectory:
    """Return the trajectory from the beginning of a history to the newest checkpoint. Nothing in it is estimated.

    Args:
        history: of the run. What came before it is not part of the trajectory.
        shapes: of the maskable weights.
        costs: dense FLOPs of inference on one image by parameter name, from ``flops.layers``; those without a mask
            count as dense.
        method: of the run, with its durations in steps.
        batch_size: images in each step.
    """
    states = [history.before, *history.updates]
    sparse = [inference_flops(state.layers, shapes, costs) for state in states]
    dense, total_steps = sum(costs.values()), history.total_steps
    updates = [update.step for update in history.updates]
    steps = [end - begin for begin, end in pairwise([history.begins_at, *updates, history.step])]
    trained = training_flops(
        method,
        zip(steps, sparse, strict=True),
        zip(updates, sparse, strict=False),  # each with the masks before it
        dense=dense,
        total_steps=total_steps,
    )
    return Trajectory(
        total_steps=total_steps,
        parameters=history.parameters,
        shapes=shapes,
        stages=tuple(
            Stage(step=state.step, active=state.active, density=state.density, layers=state.layers) for state in states
        ),
        estimated="",
        prunes=tuple((u.step, u.active) for u in history.updates if method.prunes(u.step, total_steps)),
        swaps=tuple(step for step in updates if method.swaps(step, total_steps)),
        updates=len(updates),
        dense_flops=dense,
        first_flops=sparse[0],
        active_flops=sparse[-1],
        training_flops=batch_size * trained,
        dense_training_flops=batch_size * (history.step - history.begins_at) * flops.training_step(dense, dense),
        reach=history.end.explored,
        history_bytes=history.bytes,
    )
