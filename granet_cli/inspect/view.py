"""An inspection for people: its run and progress, a table by layer, totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.layers import stem, total_title
from granet_cli.render import FAINT, Screen, percent, short, size
from granet_cli.tables import Bar, TableColumn, table

if TYPE_CHECKING:
    from exporters.weight_counts import WeightReport
    from granet.analysis.inspection import Inspection, LayerReport


def show(screen: Screen, file: Path, report: Inspection, layers: Sequence[LayerReport]) -> None:
    """Write an inspection of ``file``, with a row for each of ``layers``."""
    screen.heading(file, size(file.stat().st_size))
    screen.facts(_facts(report))
    screen.print()
    screen.print(_table(screen, report, layers))
    screen.notes(report.notes)


def _facts(report: Inspection) -> list[tuple[str, str]]:
    progress = f"step {report.step:,}" + ("" if report.total_steps is None else f" of {report.total_steps:,}")
    if report.epoch is not None:
        progress += f", epoch {report.epoch:.2f} of {report.epochs}"
    facts = [
        ("made by", f"recipe {report.recipe}: {report.method} on {report.model}, {report.data}, seed {report.seed}"),
        *([("imported", f"from {report.imported}")] if report.imported is not None else []),
        *([("rewound", _rewound(report.rewind))] if report.rewind is not None else []),
        *(("after" if number == 0 else "", _ancestor(note)) for number, note in enumerate(report.lineage[::-1])),
        ("progress", progress),
    ]
    scores = (("validation, best epoch", report.best_validation_accuracy), ("test", report.test_accuracy))
    known = [f"{percent(score)} {split}" for split, score in scores if score is not None]
    rest = report.total_parameters - report.parameters
    facts += [
        *([("accuracy", ", ".join(known))] if known else []),
        ("density", f"{report.density:.4f}: {report.active:,} of {report.parameters:,} maskable weights active"),
        ("other", f"{rest:,} parameters without a mask"),
        ("explored", f"{percent(report.exploration)} of the maskable weights were active at some time"),
    ]
    if report.flops is not None and report.flops["dense"]:
        dense, active = report.flops["dense"], report.flops["active"]
        facts.append(("FLOPs", f"{short(active)} an image, {active / dense:.1%} of the {short(dense)} when dense"))
    return facts


def _rewound(section: Mapping[str, Any]) -> str:
    rounds = len(section["densities"])
    what = {"lr": "learning rate", "weights": "weights and learning rate", "finetune": "nothing, to fine-tune"}
    which = f", round {section['round']} of {rounds}" if rounds > 1 else ""
    return f"{what[section['mode']]}, to step {section['start']:,} for {section['steps']:,} steps{which}"


def _ancestor(note: Mapping[str, Any]) -> str:
    """Describe a checkpoint that this one comes from; what its note lacks is left out."""
    number, known = (int, float), [str(note.get("method", "?"))]
    if isinstance(note.get("mode"), str):
        known.append(f"rewound ({note['mode']})")
    for key, form in (("density", "density {:.4f}"), ("step", "step {:,}"), ("test_accuracy", "test {:.2%}")):
        if isinstance(note.get(key), number):
            known.append(form.format(note[key]))
    return f"{', '.join(known)}, content {str(note.get('hash', '?'))[:12]}"


def _table(screen: Screen, report: Inspection, layers: Sequence[LayerReport]) -> Text:
    shares = [layer.flops_share for layer in layers if layer.flops_share is not None]
    total = _share(sum(shares) if shares else None)
    columns: list[TableColumn[LayerReport]] = [
        *weight_columns(layers, report.layers),
        TableColumn("dead in/out", _dead, right=True),
        TableColumn("FLOPs", lambda layer: _share(layer.flops_share), right=True, total=total),
    ]
    return table(screen, columns, layers)


def weight_columns(
    shown: Sequence[LayerReport] | Sequence[WeightReport], layers: Sequence[object]
) -> list[TableColumn[Any]]:
    """Return columns of names, shapes and counts, whose totals are over the layers ``shown`` of all ``layers``."""
    weights, active = sum(layer.parameters for layer in shown), sum(layer.active for layer in shown)
    density = active / weights if weights else 1.0
    return [
        TableColumn("layer", lambda layer: stem(layer.name), total=total_title(shown, layers)),
        TableColumn("shape", lambda layer: "x".join(map(str, layer.shape))),
        TableColumn("weights", lambda layer: layer.parameters, right=True, total=weights),
        TableColumn("active", lambda layer: layer.active, right=True, total=active),
        TableColumn("density", lambda layer: f"{layer.density:.4f}", right=True, total=f"{density:.4f}"),
        TableColumn("", lambda layer: Bar(layer.density), total=Bar(density)),
    ]


def _share(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _dead(layer: LayerReport) -> Text:
    dead = (layer.dead_inputs, layer.dead_outputs)
    return Text(f"{dead[0]}/{dead[1]}", style="yellow" if any(dead) else FAINT)
