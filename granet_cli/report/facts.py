"""Facts of one run for the report: state, network, data, density, accuracy, lineage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from granet_cli.render import duration, percent, size

if TYPE_CHECKING:
    from granet.analysis.run_report import RunReport


def state(run: RunReport) -> str:
    """Return whether a run is finished, and else how far it is."""
    if run.summary.finished:
        return "finished"
    return f"{run.state}, at step {run.summary.step:,}{_end(run)}"


def facts(run: RunReport) -> dict[str, str]:
    """Return facts of a run by name: state, network, data, density, accuracy and so on."""
    one, inspected, history = run.summary, run.inspection, run.history
    began = f"; it began at step {run.begins_at:,}" if run.begins_at else ""
    found = {
        "state": state(run),
        "description": one.recipe.description,
        "made by": f"recipe {one.recipe.name}: {one.recipe.method.name}, seed {one.seed}",
        "network": one.model,
        "data": f"{one.recipe.data.name}: {one.images}",
        "steps": f"{one.step:,}{_end(run)}, {run.steps_per_epoch:,} an epoch{began}",
        "density": f"{inspected.density:.4f}: {inspected.active:,} of {inspected.parameters:,} maskable weights are "
        "active",
        "accuracy": _accuracies(run),
        "explored": f"{percent(inspected.exploration)} of the maskable weights were active at some time",
        "updates": _updates(run),
        "file": f"{one.checkpoint}, {size(one.bytes)}",
        "time": "unknown" if run.seconds is None else f"{duration(run.seconds)} of training{_speed(run)}",
        "imported": inspected.imported,
    }
    if history is not None and history.updates and history.entropy_bytes:
        ratio = history.bytes / history.entropy_bytes
        found["history"] = f"{size(history.bytes)}, {ratio:.2f} times the entropy of its changes"
    return {name: value for name, value in found.items() if value}


def lineage(run: RunReport) -> list[str]:
    """Return the checkpoints that a run comes from, and how it was rewound, oldest first."""
    rewind = run.summary.recipe.rewind
    notes = [_ancestor(note) for note in run.inspection.lineage]
    if rewind is not None:
        modes = {"lr": "learning-rate rewinding", "weights": "weight rewinding", "finetune": "fine-tuning"}
        of = f", round {rewind.round} of {len(rewind.densities)}" if len(rewind.densities) > 1 else ""
        notes.append(
            f"this run: {modes.get(rewind.mode, rewind.mode)}{of}, from step {rewind.start:,} for {rewind.steps:,} "
            f"steps at density {rewind.density:.4f}"
        )
    return notes


def _end(run: RunReport) -> str:
    return "" if run.inspection.total_steps is None else f" of {run.inspection.total_steps:,}"


def _accuracies(run: RunReport) -> str:
    images = dict(run.summary.images.examples)
    measured = (("validation", run.summary.validation_accuracy), ("test", run.summary.test_accuracy))
    known = [
        f"{percent(value)} on {images.get(split, 'the')} {split} images"
        for split, value in measured
        if value is not None
    ]
    return ", ".join(known) or "not measured yet"


def _updates(run: RunReport) -> str:
    if run.history is None:
        return "unknown"
    updates = run.history.updates
    lost, gained = sum(update.lost for update in updates), sum(update.gained for update in updates)
    return f"{len(updates):,}, in which {lost:,} weights were lost and {gained:,} gained" if updates else "none"


def _speed(run: RunReport) -> str:
    known = [epoch.images_per_second for epoch in run.epochs if epoch.images_per_second is not None]
    if not known:
        return ""
    low, high = f"{min(known):,.0f}", f"{max(known):,.0f}"
    return f", at {low if low == high else f'{low} to {high}'} images/s"


_NOTED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("density", "density", "{:.4f}".format),
    ("step", "step", "{:,}".format),
    ("validation", "validation_accuracy", percent),
    ("test", "test_accuracy", percent),
)
"""Numbers recorded of an ancestor: names, keys, and formats."""


def _ancestor(note: Mapping[str, object]) -> str:
    """Return what the file records of an ancestor; types are checked, since it is untrusted."""
    found = [f"{note.get('method')}, recipe {note.get('recipe')}"]
    if note.get("mode") is not None:
        found.append(f"rewound ({note['mode']}), round {note.get('round')}")
    numbers = [(name, note.get(key), form) for name, key, form in _NOTED]
    found += [f"{name} {form(value)}" for name, value, form in numbers if isinstance(value, int | float)]
    if isinstance(digest := note.get("hash"), str):
        found.append(f"checkpoint {digest[:12]}")
    return ", ".join(found)
