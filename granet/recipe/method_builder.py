"""Build the method of a recipe, and check durations, which needs the number of steps of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from granet.errors import RecipeError, UsageError
from granet.methods.base import Method
from granet.methods.registry import method_class
from granet.methods.settings import settings_of
from granet.recipe.durations import Duration
from granet.recipe.error_messages import combined, relocated_error
from granet.recipe.recipe import Recipe
from granet.recipe.setting_rules import method_settings, read_settings, setting_errors


def build_method(recipe: Recipe, steps_per_epoch: int) -> Method:
    """Return the method of ``recipe`` with durations in steps, after all durations have been checked.

    Raises:
        RecipeError: a prune window, milestone or warm-up past the end of training, an interval that yields no
            update, or any other duration that does not fit; all of them in one error.
    """
    total = recipe.total_steps(steps_per_epoch)
    name, written = recipe.method.name, recipe.method.settings
    cls = method_class(name)
    read, problems = read_settings(name, written)  # they are plain data where the method was confirmed only later
    values: dict[str, Any] = {
        key: value.steps(steps_per_epoch) if isinstance(value, Duration) else value for key, value in read.items()
    }

    def located(error: UsageError) -> RecipeError:
        """Return the error under its dotted key, with the duration as it was written before the steps."""
        key = str(error.where)
        if key not in settings_of(cls):
            return relocated_error(error, "method")
        got = f'"{read[key]}", {error.got}' if isinstance(read.get(key), Duration) else error.got
        return relocated_error(error, f"method.{key}", got=got)

    problems = [located(problem) for problem in problems or setting_errors(name, method_settings(name), written)]
    for key, value in values.items() if not problems else ():
        try:
            settings_of(cls)[key].check(value, where=key)
        except UsageError as error:
            problems.append(located(error))
    if not problems:
        try:
            method = cls(**values)
            method.check({}, total)  # with no layers to look at, what is left to check is the clock
        except UsageError as error:
            problems.append(located(error))
    if recipe.rewind is None or recipe.rewind.learning_rate is None:  # fine-tuning does not follow the schedule
        problems += _schedule_problems(recipe, steps_per_epoch, total)
    problems += _saving_problems(recipe, steps_per_epoch)
    if problems:
        raise combined(problems, where=f"recipe {recipe.name}")
    return method


def _schedule_problems(recipe: Recipe, steps_per_epoch: int, total: int) -> Iterator[RecipeError]:
    schedule = recipe.schedule
    durations = [("milestones", "a milestone", milestone) for milestone in schedule.milestones]
    for key, what, duration in [*durations, ("warmup", "the warm-up", schedule.warmup)]:
        step = duration.steps(steps_per_epoch)
        if step > total:
            yield RecipeError(
                f"{what} ends past the end of training",
                where=f"schedule.{key}",
                got=f'"{duration}", step {step} of {total}',
                remedy="make it earlier or train longer",
            )
    for earlier, later in pairwise(schedule.milestones):
        if earlier.steps(steps_per_epoch) > later.steps(steps_per_epoch):
            yield RecipeError(
                "milestones must increase",
                where="schedule.milestones",
                got=f'"{earlier}" before "{later}" with {steps_per_epoch} steps per epoch',
            )


def _saving_problems(recipe: Recipe, steps_per_epoch: int) -> Iterator[RecipeError]:
    for key in ("save_every", "keep_every"):
        period = getattr(recipe.training, key)
        if period is not None and period.steps(steps_per_epoch) < 1:
            yield RecipeError("less than a step", where=f"training.{key}", got=f'"{period}"')
