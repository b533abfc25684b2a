"""The learning rate as a pure function of the step."""

from __future__ import annotations

from bisect import bisect_right

from granet.recipe import Recipe
from granet.schedules import cosine


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of the optimizer step that follows after ``step`` steps; constant in a fine-tuning.

    Warm-up rises linearly and reaches the full rate after its last step. ``multistep`` multiplies by gamma at each
    milestone; ``cosine`` falls from the end of the warm-up to ``final_learning_rate`` at the end of training.
    """
    if recipe.rewind is not None and recipe.rewind.learning_rate is not None:
        return recipe.rewind.learning_rate
    schedule, full = recipe.schedule, recipe.optimizer.learning_rate
    warmup = schedule.warmup.steps(steps_per_epoch) if schedule.warmup else 0
    if step < warmup:
        return full * (step + 1) / warmup
    if schedule.name == "multistep":
        milestones = [milestone.steps(steps_per_epoch) for milestone in schedule.milestones or ()]
        return full * (schedule.gamma or 1.0) ** bisect_right(milestones, step)
    if schedule.name == "cosine":
        total = recipe.total_steps(steps_per_epoch)
        return cosine(step - warmup, max(total - warmup, 1), full, schedule.final_learning_rate or 0.0)
    return full
