"""A plan for people: what is going to be trained, what it costs, a row for every layer, and warnings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from granet_cli.layers import stem
from granet_cli.render import FAINT, Screen, duration, printable, short, size
from granet_cli.tables import Bar, TableColumn, table

if TYPE_CHECKING:
    from granet.recipe import Recipe
    from granet.training.plan import LayerPlan, RunPlan
    from granet.training.step_timing import Trial


def images_of(recipe: Recipe, count: int | None, classes: int | None) -> dict[str, int | None] | None:
    """Return what is known of images that are not at hand; None when the dataset is to be opened.

    Raises:
        UsageError: a number of classes alone.
    """
    from granet.errors import UsageError
    from granet_cli.choices import EMBEDDED

    if count is None and classes is not None:
        raise UsageError("it goes with --images", where="--classes", remedy="say how many images there are, too")
    if count is not None:
        return {"count": count, "classes": classes}
    return {} if recipe.data.directory is None and recipe.data.name != EMBEDDED else None


def show(screen: Screen, plan: RunPlan) -> None:
    """Write a plan."""
    recipe = plan.recipe
    title = f"{recipe.name}: {recipe.method.name}, {recipe.model.name}, {recipe.data.name}"
    screen.print(Text(printable(title), style="bold"))
    screen.facts(_facts(plan))
    screen.print()
    screen.print(_layers(screen, plan))
    if plan.course.estimated:
        screen.prose(Text(f"~ layers are estimated {plan.course.estimated}", style=FAINT))
    if plan.cautions:
        screen.print()
    for caution in plan.cautions:
        screen.prose(Text("caution: ", style="bold yellow").append(printable(caution.message), style="not bold"))


def _facts(plan: RunPlan) -> list[tuple[str, str]]:
    course, recipe = plan.course, plan.recipe
    epochs = -(-plan.total_steps // plan.steps_per_epoch)
    images = ", ".join(f"{count:,} {split}" for split, count in plan.examples.items())
    rest = plan.total_parameters - course.parameters
    facts = [
        (
            "images",
            images if plan.real_images else f"{plan.examples['train']:,} to train on; the dataset is not opened",
        ),
        (
            "steps",
            f"{plan.total_steps:,}: {epochs:,} epochs of {plan.steps_per_epoch:,}, batches of "
            f"{recipe.training.batch_size:,}",
        ),
        (
            "budget",
            f"{course.last.active:,} of {course.parameters:,} maskable weights, density {course.last.density:.4f}"
            f" from {course.first.density:.4f}; {rest:,} parameters besides",
        ),
        ("updates", _updates(plan)),
        (
            "inference",
            f"{short(course.active_flops)} FLOPs an image, "
            f"{_share(course.active_flops, course.dense_flops)} of the {short(course.dense_flops)} when dense",
        ),
        (
            "training",
            f"{course.training_flops:.2e} FLOPs, "
            f"{_share(course.training_flops, course.dense_training_flops)} of the "
            f"{course.dense_training_flops:.2e} when dense",
        ),
        (
            "files",
            f"checkpoints of {size(plan.first_bytes)} at first and {size(plan.last_bytes)} in the end; "
            f"{plan.checkpoints} in the end, {size(round(plan.disk_bytes))}, and a history of up to "
            f"{size(round(course.history_bytes))}",
        ),
    ]
    return [*facts, *([] if plan.trial is None else _timing(plan, plan.trial))]


def _updates(plan: RunPlan) -> str:
    course = plan.course
    if not course.updates:
        return "none"
    parts = []
    if course.prunes:
        window = f"steps {course.prunes[0][0]:,} to {course.prunes[-1][0]:,}"
        parts.append(f"{len(course.prunes):,} prunes, {window}")
    if course.swaps:
        parts.append(f"{len(course.swaps):,} swaps, steps {course.swaps[0]:,} to {course.swaps[-1]:,}")
    return f"{course.updates:,}: {'; '.join(parts)}"


def _timing(plan: RunPlan, trial: Trial) -> list[tuple[str, str]]:
    images = "" if trial.real_images else ", with noise instead of images"
    low, high = trial.spread_seconds
    largest = sorted(trial.memory.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {size(count)}" for name, count in largest if count)
    peak = "" if trial.peak_memory is None else f"; {size(trial.peak_memory)} at the most on the GPU"
    took = f"a step took {1000 * low:.0f} ms"
    if trial.steps > 1:
        spread = f"{1000 * low:.0f} to {1000 * high:.0f} ms each"
        took = f"{trial.steps} steps took {spread}, median {1000 * trial.step_seconds:.0f}"
    rate = plan.recipe.training.batch_size / trial.step_seconds
    return [
        ("memory", f"{size(sum(trial.memory.values()))}: {parts}{peak}"),
        ("time", f"{duration(plan.seconds or 0.0)} on {trial.device}, {trial.precision}{images}"),
        (
            "",
            f"{took}, {rate:,.0f} images/s; an update {1000 * trial.update_seconds:.0f} ms, a validation "
            f"{trial.evaluation_seconds:.1f} s",
        ),
    ]


def _layers(screen: Screen, plan: RunPlan) -> Text:
    course = plan.course

    def mark(layer: LayerPlan, time: int) -> str:
        """Mark estimates. The start is never one, and neither is a layer without a mask."""
        return "~" if course.estimated and layer.masked and time % len(plan.times) else ""

    def density(layer: LayerPlan, *, time: int) -> str:
        return f"{mark(layer, time)}{layer.active[time] / layer.parameters:.4f}"

    times: list[TableColumn[LayerPlan]] = [
        TableColumn(
            f"step {stage.step:,}" if stage.step else "at first",
            partial(density, time=time),
            right=True,
            total=f"{stage.density:.4f}",
        )
        for time, stage in enumerate(plan.times)
    ]
    columns: list[TableColumn[LayerPlan]] = [
        TableColumn("layer", lambda layer: stem(layer.name) + ("" if layer.masked else " (no mask)"), total="total"),
        TableColumn("weights", lambda layer: layer.parameters, right=True, total=course.parameters),
        *times,
        TableColumn("", lambda layer: Bar(layer.active[-1] / layer.parameters), total=Bar(course.last.density)),
        TableColumn(
            "active", lambda layer: f"{mark(layer, -1)}{layer.active[-1]:,}", right=True, total=course.last.active
        ),
        TableColumn("FLOPs", lambda layer: f"{mark(layer, -1)}{layer.flops_share:.1%}", right=True, total="100.0%"),
    ]
    return table(screen, columns, plan.layers)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "none"
