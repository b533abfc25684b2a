"""The plan of a run before it is trained: densities, costs, sizes, time and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from granet import flops
from granet.analysis.json_values import json_value
from granet.analysis.plan_warnings import Caution, cautions
from granet.analysis.trajectory import Stage, Trajectory, predict_trajectory
from granet.checkpoint import Checkpoint, codec
from granet.errors import UsageError
from granet.masks import mapping
from granet.recipe import Recipe
from granet.rewinding.start_state import masked
from granet.training.device import set_determinism
from granet.training.placeholder_dataset import PlaceholderImages, placeholder_dataset
from granet.training.run import Run, begin, capture, open_data, split_sizes
from granet.training.step_timing import StepTiming, time_steps


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """A layer that can be masked, or that has FLOPs without a mask."""

    name: str
    shape: tuple[int, ...]
    masked: bool
    parameters: int
    active: tuple[int, ...]
    """At each of the times of the plan."""
    flops_share: float
    """Share of the FLOPs of inference at the end."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The result of ``granet plan``."""

    recipe: Recipe
    examples: Mapping[str, int]
    real_images: bool
    """Whether the dataset was opened; otherwise its sizes were given."""
    steps_per_epoch: int
    total_steps: int
    total_parameters: int
    """All parameters, also those without a mask."""
    trajectory: Trajectory
    times: tuple[Stage, ...]
    """Some of the stages, from the start to the end."""
    layers: tuple[LayerPlan, ...]
    first_bytes: int
    """Size of a checkpoint with the masks of the start, once the optimizer has its state."""
    last_bytes: int
    """Size of one at the end."""
    checkpoints: int
    """Number of checkpoints at the end."""
    disk_bytes: float
    """Size of all checkpoints together."""
    trial: StepTiming | None
    cautions: tuple[Caution, ...]
    notes: tuple[str, ...]
    """What the masks leave out: matrices, and products without weights."""

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole run: steps, updates and evaluations; None without a timing."""
        if self.trial is None:
            return None
        epochs = -(-self.total_steps // self.steps_per_epoch)
        return (
            self.total_steps * self.trial.step_seconds
            + epochs * self.trial.evaluation_seconds
            + self.trajectory.updates * self.trial.update_seconds
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        trajectory = self.trajectory
        own = ("examples", "real_images", "steps_per_epoch", "total_steps", "total_parameters", "layers", "notes")
        document: dict[str, Any] = json_value(
            {
                "recipe": self.recipe.as_dict(),
                **{key: getattr(self, key) for key in (*own, "trial", "seconds", "cautions")},
                **{key: getattr(trajectory, key) for key in ("parameters", "updates", "reach", "stages")},
                "initial_density": trajectory.first.density,
                "density": trajectory.last.density,
                "active": trajectory.last.active,
                "prunes": [{"step": step, "active": active} for step, active in trajectory.prunes],
                "swaps": len(trajectory.swaps),
                "estimated": trajectory.estimated or None,
                "times": [stage.step for stage in self.times],
                "flops": {
                    "dense": trajectory.dense_flops,
                    "first": trajectory.first_flops,
                    "active": trajectory.active_flops,
                },
                "training_flops": {"dense": trajectory.dense_training_flops, "active": trajectory.training_flops},
                "bytes": {
                    "first_checkpoint": self.first_bytes,
                    "last_checkpoint": self.last_bytes,
                    "checkpoints": self.checkpoints,
                    "disk": self.disk_bytes,
                    "history": trajectory.history_bytes,
                },
            }
        )
        return document


def plan(recipe: Recipe, device: torch.device, *, images: PlaceholderImages | None = None, steps: int = 5) -> RunPlan:
    """Plan a run of ``recipe``; nothing is written.

    Args:
        images: plans without the dataset, of which nothing is opened then.
        steps: how many steps to time at the most; 0 tries nothing out.

    Raises:
        UsageError: a recipe of a rewind, or settings that do not fit each other, the data or the device.
        DataError, ModelError: as ``granet.training.train``.
    """
    if recipe.rewind is not None:
        raise UsageError(
            "this is the recipe of a rewind", where="rewind", remedy="see granet rewind --dry-run, which plans those"
        )
    set_determinism(deterministic=recipe.training.deterministic)
    dataset = open_data(recipe) if images is None else placeholder_dataset(recipe, images)
    run = begin(recipe, dataset, device)
    method, per_epoch = run.sparsifier.method, run.pipeline.steps_per_epoch
    parameters = dict(run.model.named_parameters())
    costs = flops.layers(run.model, (dataset.channels, dataset.image_size, dataset.image_size))
    trajectory = predict_trajectory(
        method,
        {name: parameters[name].detach() for name in run.sparsifier.masks},
        costs,
        total_steps=run.total_steps,
        batch_size=recipe.training.batch_size,
        seed=recipe.seed,
    )
    trial = time_steps(run, steps=steps, real_images=images is None) if steps else None
    times = _times(trajectory)
    sizes = _sizes(run, trajectory)
    saved = run.retention.steps_at_end(0, run.total_steps)
    return RunPlan(
        recipe=recipe,
        examples=split_sizes(dataset),
        real_images=images is None,
        steps_per_epoch=per_epoch,
        total_steps=run.total_steps,
        total_parameters=sum(parameter.numel() for parameter in parameters.values()),
        trajectory=trajectory,
        times=times,
        layers=_layers(parameters, trajectory, costs, times),
        first_bytes=sizes[1],
        last_bytes=sizes[2],
        checkpoints=len(saved),
        disk_bytes=_disk_bytes(saved, trajectory, *sizes),
        trial=trial,
        cautions=cautions(trajectory, method, costs, steps_per_epoch=per_epoch),
        notes=(*run.matrices.notes(trajectory.shapes), *flops.notes(costs, trajectory.active_flops)),
    )


def _times(trajectory: Trajectory, most: int = 5) -> tuple[Stage, ...]:
    """Return the first and the last stage, and those between them at evenly spaced densities."""
    stages = trajectory.stages
    if len(stages) <= most:
        return stages
    wanted = [
        trajectory.first.density + (trajectory.last.density - trajectory.first.density) * share
        for share in (number / (most - 1) for number in range(1, most - 1))
    ]
    between = {min(stages[1:-1], key=lambda stage: abs(stage.density - density)).step for density in wanted}
    chosen = {trajectory.first.step, trajectory.last.step, *between}
    return tuple(stage for stage in stages if stage.step in chosen)


def _layers(
    parameters: Mapping[str, Tensor], trajectory: Trajectory, costs: Mapping[str, float], times: tuple[Stage, ...]
) -> tuple[LayerPlan, ...]:
    plans = []
    for name, parameter in parameters.items():
        masked = name in trajectory.shapes
        if not masked and name not in costs:
            continue
        size = prod(parameter.shape)
        active = tuple(stage.layers[name] if masked else size for stage in times)
        cost = costs.get(name, 0.0) * active[-1] / size
        plans.append(
            LayerPlan(
                name=name,
                shape=tuple(parameter.shape),
                masked=masked,
                parameters=size,
                active=active,
                flops_share=cost / trajectory.active_flops if trajectory.active_flops else 0.0,
            )
        )
    return tuple(plans)


def _sizes(run: Run, trajectory: Trajectory) -> tuple[int, int, int]:
    """Return the bytes of checkpoints: before the first step, with the initial masks, and at the end."""
    _with_state(run)
    nothing: dict[str, Any] = {"epochs": [], "updates": []}
    first = _predicted(run, trajectory.first, nothing, trajectory.first.density)
    last = _predicted(run, trajectory.last, _metrics(run, trajectory), trajectory.reach)
    return len(codec.encode(replace(first, optimizer={}))), len(codec.encode(first)), len(codec.encode(last))


def _with_state(run: Run) -> None:
    """Make the optimizer create its state, if it has none yet, by a step with gradients of zero."""
    if not run.optimizer.state:
        for group in run.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        run.sparsifier.step()


def _predicted(run: Run, stage: Stage, metrics: dict[str, Any], reach: float) -> Checkpoint:
    """Return the state of the run with random masks that have as many active weights as at ``stage``."""
    state = capture(run)
    drawn = mapping.random(mapping.shapes(state.masks), stage.layers, seed=0)
    active = {name: mask.to(state.weights[name].device) for name, mask in drawn.items()}
    explored = {
        name: mask | (torch.rand(mask.shape, device=mask.device) < (reach if reach < 1.0 else 2.0))
        for name, mask in active.items()
    }
    return masked(state, active, explored=explored if reach > stage.density else active, metrics=metrics)


def _metrics(run: Run, trajectory: Trajectory) -> dict[str, Any]:
    """Return metrics as large as those of a whole run, with made-up values."""
    share, loss = 0.8333333333333334, 0.5166666666666667
    epochs = -(-run.total_steps // run.pipeline.steps_per_epoch)
    an_epoch = {"epoch": epochs, "step": run.total_steps, "loss": loss, "accuracy": share, "validation_loss": loss,
                "validation_accuracy": share, "density": share, "learning_rate": share}  # fmt: skip
    an_update = {"step": run.total_steps, "density": share, "pruned": 0, "dropped": trajectory.last.active // 10,
                 "grown": trajectory.last.active // 10, "exploration_rate": share}  # fmt: skip
    best = {"epoch": epochs, "step": run.total_steps, "accuracy": share, "loss": loss}
    return {"epochs": [an_epoch] * epochs, "updates": [an_update] * trajectory.updates, "best": best, "test": best}


def _disk_bytes(steps: Iterable[int], trajectory: Trajectory, new: int, first: int, last: int) -> float:
    """Return the bytes of checkpoints of these steps, interpolated by their active weights; see ``_sizes``."""
    fall, disk = trajectory.first.active - trajectory.last.active, 0.0
    for step in steps:
        active = next((kept for prune, kept in reversed(trajectory.prunes) if prune <= step), trajectory.first.active)
        share = (active - trajectory.last.active) / fall if fall else 0.0
        disk += new if step == 0 else last + share * (first - last)
    return disk
