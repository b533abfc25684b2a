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
    from granet.training.step_timing import StepTiming


def images_of(recipe: Recipe, count: int | None, classes: int | None) -> dict[str, int | None] | None:
    """Return what is known of images that are not at hand; None when the dataset is to be opened.

    Raises:
        UsageError: a number of classes alone.
    """
    from granet.errors import UsageError
    from granet_cli.overrides import EMBEDDED

    if count is None and classes is not None:
        raise UsageError(
            "this needs --images as well", where="--classes", remedy="add --images N, the number of training images"
        )
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
    if plan.trajectory.estimated:
        screen.prose(Text(f"~ layers are estimated {plan.trajectory.estimated}", style=FAINT))
    screen.notes(plan.notes)
    if plan.cautions:
        screen.print()
    for caution in plan.cautions:
        screen.prose(Text("caution: ", style="bold yellow").append(printable(caution.message), style="not bold"))


def _facts(plan: RunPlan) -> list[tuple[str, str]]:
    trajectory, images = plan.trajectory, f"{plan.examples['train']:,} to train on; the dataset is not opened"
    if plan.real_images:
        images = ", ".join(f"{count:,} {split}" for split, count in plan.examples.items())
    epochs = -(-plan.total_steps // plan.steps_per_epoch)
    steps = f"{plan.total_steps:,}: {epochs:,} epochs of {plan.steps_per_epoch:,}, batches of "
    first, last = trajectory.first, trajectory.last
    budget = f"{last.active:,} of {trajectory.parameters:,} maskable weights, density {last.density:.4f} from "
    active, dense = trajectory.active_flops, trajectory.dense_flops
    trained, trained_dense = trajectory.training_flops, trajectory.dense_training_flops
    facts = [
        ("images", images),
        ("steps", f"{steps}{plan.recipe.training.batch_size:,}"),
        ("budget", f"{budget}{first.density:.4f}; {plan.total_parameters - trajectory.parameters:,} other parameters"),
        ("updates", _updates(plan)),
        ("inference", f"{short(active)} FLOPs an image, {_share(active, dense)} of the {short(dense)} when dense"),
        ("training", f"{trained:.2e} FLOPs, {_share(trained, trained_dense)} of the {trained_dense:.2e} when dense"),
        (
            "files",
            f"checkpoints of {size(plan.first_bytes)} at first and {size(plan.last_bytes)} in the end; "
            f"{plan.checkpoints} in the end, {size(round(plan.disk_bytes))}, and a history of up to "
            f"{size(round(trajectory.history_bytes))}",
        ),
    ]
    return [*facts, *([] if plan.trial is None else _timing(plan, plan.trial))]


def _updates(plan: RunPlan) -> str:
    trajectory = plan.trajectory
    if not trajectory.updates:
        return "none"
    parts = []
    if trajectory.prunes:
        window = f"steps {trajectory.prunes[0][0]:,} to {trajectory.prunes[-1][0]:,}"
        parts.append(f"{len(trajectory.prunes):,} prunes, {window}")
    if trajectory.swaps:
        parts.append(f"{len(trajectory.swaps):,} swaps, steps {trajectory.swaps[0]:,} to {trajectory.swaps[-1]:,}")
    return f"{trajectory.updates:,}: {'; '.join(parts)}"


def _timing(plan: RunPlan, trial: StepTiming) -> list[tuple[str, str]]:
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
    trajectory = plan.trajectory

    def mark(layer: LayerPlan, time: int) -> str:
        """Mark estimates. The start is never one, and neither is a layer without a mask."""
        return "~" if trajectory.estimated and layer.masked and time % len(plan.times) else ""

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
        TableColumn("weights", lambda layer: layer.parameters, right=True, total=trajectory.parameters),
        *times,
        TableColumn("", lambda layer: Bar(layer.active[-1] / layer.parameters), total=Bar(trajectory.last.density)),
        TableColumn(
            "active", lambda layer: f"{mark(layer, -1)}{layer.active[-1]:,}", right=True, total=trajectory.last.active
        ),
        TableColumn("FLOPs", lambda layer: f"{mark(layer, -1)}{layer.flops_share:.1%}", right=True, total="100.0%"),
    ]
    return table(screen, columns, plan.layers)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "none"
