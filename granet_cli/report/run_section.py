"""What there is to tell of one run alone: facts, cautions, where it comes from, its layers and all settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from granet_cli.render import duration, percent, size
from granet_cli.report import curves, heatmap, tables
from granet_cli.report.markup import Markup, element, joined
from granet_cli.report.plane import figure

if TYPE_CHECKING:
    from granet.analysis.run_report import RunReport


def section(run: RunReport, number: int, *, alone: bool, cells: int) -> Markup:
    """The section of a run; its pictures of curves only when it is ``alone`` on the page."""
    pictures = curves.of_one(run) if alone else []
    field = (
        figure("Density of each layer over epochs", heatmap.draw(run, f"layers-{number}", cells=cells))
        if (heatmap.drawable(run))
        else _no_field(run)
    )
    return element(
        "article",
        None if alone else element("h3", f"{number}. {run.outcome.path}"),
        _listed("Cautions", [caution.message for caution in run.cautions]),
        _listed("What could not be told", list(run.notes)),
        element("div", facts(run), _lineage(run), class_="two"),
        element("h4", "Curves") if pictures else None,
        element("div", pictures, class_="charts") if pictures else None,
        element("h4", "Layers"),
        field,
        element("details", element("summary", "Table of layers"), tables.layers(run), open=alone)
        if run.inspection.layers
        else element("p", "No layer of this network has a mask.", class_="faint"),
        element("details", element("summary", "All settings"), tables.settings(run)),
        id=f"run-{number}",
    )


def _no_field(run: RunReport) -> Markup | None:
    told = run.history
    if told is None:
        return None  # among what could not be told
    if not told.updates:
        return element("p", "Its masks have not changed.", class_="faint") if told.layers else None
    many = f"{len(told.layers)} layers are more than are drawn over time; --json has them."
    return element("p", many, class_="faint")


def _listed(title: str, messages: list[str]) -> Markup | None:
    if not messages:
        return None
    items = [element("li", message) for message in messages]
    return element("div", element("h4", title), element("ul", items), class_="notice")


def facts(run: RunReport) -> Markup:
    """What a run is and where it stands."""
    one, past = run.outcome, run.history
    end = "" if one.total_steps is None else f" of {one.total_steps:,}"
    rows = [
        ("state", tables.state(run)),
        ("made by", f"recipe {one.recipe.name}: {one.recipe.method.name}, seed {one.seed}"),
        ("network", one.model),
        ("data", f"{one.recipe.data.name}: {one.images}"),
        ("steps", f"{one.step:,}{end}, {run.steps_per_epoch:,} an epoch" + _began(run)),
        ("density", f"{one.density:.4f}: {one.active:,} of {one.parameters:,} maskable weights are active"),
        ("accuracy", _accuracies(run)),
        ("explored", f"{percent(run.inspection.exploration)} of the maskable weights were active at some time"),
        ("updates", _updates(run)),
        ("file", f"{one.checkpoint}, {size(one.bytes)}"),
        ("time", "unknown" if run.seconds is None else f"{duration(run.seconds)} of training{_speed(run)}"),
    ]
    if run.inspection.imported:
        rows.append(("imported", run.inspection.imported))
    if one.recipe.description:
        rows.insert(1, ("description", one.recipe.description))
    if past is not None and past.updates and past.entropy_bytes:
        cost = f"{size(past.bytes)}, {past.bytes / past.entropy_bytes:.2f} times the entropy of its changes"
        rows.append(("history", cost))
    return described(rows)


def described(rows: list[tuple[str, str]]) -> Markup:
    """Names and what they stand for."""
    return element("dl", [joined(element("dt", name), element("dd", value)) for name, value in rows])


def _began(run: RunReport) -> str:
    return f"; it began at step {run.begins_at:,}" if run.begins_at else ""


def _accuracies(run: RunReport) -> str:
    one = run.outcome
    known = [
        f"{percent(value)} on {count} {split} images"
        for split, value in (("validation", one.validation_accuracy), ("test", one.test_accuracy))
        if value is not None
        for count in [dict(one.images.examples).get(split, "the")]
    ]
    return ", ".join(known) or "not measured yet"


def _updates(run: RunReport) -> str:
    past = run.history
    if past is None:
        return "unknown"
    if not past.updates:
        return "none"
    lost, gained = (sum(getattr(update, what) for update in past.updates) for what in ("lost", "gained"))
    return f"{len(past.updates):,}, in which {lost:,} weights were lost and {gained:,} gained"


def _speed(run: RunReport) -> str:
    known = [epoch.images_per_second for epoch in run.epochs if epoch.images_per_second is not None]
    if not known:
        return ""
    low, high = f"{min(known):,.0f}", f"{max(known):,.0f}"
    return f", at {low if low == high else f'{low} to {high}'} images/s"


def _lineage(run: RunReport) -> Markup | None:
    """The checkpoints that a run comes from, and how it was rewound."""
    rewind = run.outcome.recipe.rewind
    notes = [_ancestor(note) for note in run.inspection.lineage]
    if rewind is not None:
        modes = {"lr": "learning-rate rewinding", "weights": "weight rewinding", "finetune": "fine-tuning"}
        of = f", round {rewind.round} of {len(rewind.densities)}" if len(rewind.densities) > 1 else ""
        notes.append(
            f"this run: {modes.get(rewind.mode, rewind.mode)}{of}, from step {rewind.start:,} for {rewind.steps:,} "
            f"steps at density {rewind.density:.4f}"
        )
    if not notes:
        return None
    items = [element("li", note) for note in notes]
    return element("div", element("h4", "Where it comes from"), element("ol", items))


def _ancestor(note: Mapping[str, object]) -> str:
    """What was noted of an ancestor; files can say anything, so nothing is relied on."""
    parts = [f"{note.get('method')}, recipe {note.get('recipe')}"]
    if note.get("mode") is not None:
        parts.append(f"rewound ({note['mode']}), round {note.get('round')}")
    for key, told in (("density", "density"), ("step", "step")):
        if isinstance(value := note.get(key), int | float):
            parts.append(f"{told} {value:,.4f}" if isinstance(value, float) else f"{told} {value:,}")
    for key, told in (("validation_accuracy", "validation"), ("test_accuracy", "test")):
        if isinstance(value := note.get(key), int | float):
            parts.append(f"{told} {percent(value)}")
    if isinstance(digest := note.get("hash"), str):
        parts.append(f"checkpoint {digest[:12]}")
    return ", ".join(parts)
