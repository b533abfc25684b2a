"""An inspection for people: what made it and where it stands, a table by layer, totals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.layers import stem
from granet_cli.render import FAINT, Column, Screen, bar, percent, printable, short, size, table

if TYPE_CHECKING:
    from granet.analysis.inspection import Inspection, LayerReport

_COLUMNS = (
    Column("layer"),
    Column("shape"),
    Column("weights", right=True),
    Column("active", right=True),
    Column("density", right=True),
    Column(""),
    Column("dead in/out", right=True),
    Column("FLOPs", right=True),
)
_BAR, _WIDEST_BAR = 6, 24


def show(screen: Screen, file: Path, report: Inspection, layers: Sequence[LayerReport]) -> None:
    """Writes it."""
    screen.print(
        Text(printable(file), style="bold").append(f"  {size(file.stat().st_size)}", style=f"not bold {FAINT}")
    )
    for name, value in _facts(report):
        screen.print(Text(f"{name:<10}", style=FAINT).append(printable(value), style="default"))
    screen.print()
    screen.print(_layers(screen, report, layers))
    for note in report.notes:
        screen.print(Text(f"note: {printable(note)}", style="yellow"))


def _facts(report: Inspection) -> list[tuple[str, str]]:
    where = f"step {report.step:,}" + ("" if report.total_steps is None else f" of {report.total_steps:,}")
    if report.epoch is not None:
        where += f", epoch {report.epoch:.2f} of {report.epochs}"
    facts = [
        ("made by", f"recipe {report.recipe}: {report.method} on {report.model}, {report.data}, seed {report.seed}"),
        *([("imported", f"from {report.imported}")] if report.imported is not None else []),
        *([("rewound", _rewound(report.rewind))] if report.rewind is not None else []),
        *(("after" if number == 0 else "", _ancestor(note)) for number, note in enumerate(report.lineage[::-1])),
        ("stands at", where),
    ]
    scores = (("validation, best epoch", report.best_validation_accuracy), ("test", report.test_accuracy))
    known = [f"{percent(score)} {split}" for split, score in scores if score is not None]
    rest = report.total_parameters - report.parameters
    facts += [
        *([("accuracy", ", ".join(known))] if known else []),
        ("density", f"{report.density:.4f}: {report.active:,} of {report.parameters:,} maskable weights active"),
        ("besides", f"{rest:,} parameters without a mask"),
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
    """A line about a checkpoint that this one comes from; whatever its note lacks is left out."""
    number, known = (int, float), [str(note.get("method", "?"))]
    if isinstance(note.get("mode"), str):
        known.append(f"rewound ({note['mode']})")
    for key, form in (("density", "density {:.4f}"), ("step", "step {:,}"), ("test_accuracy", "test {:.2%}")):
        if isinstance(note.get(key), number):
            known.append(form.format(note[key]))
    return f"{', '.join(known)}, content {str(note.get('hash', '?'))[:12]}"


def _layers(screen: Screen, report: Inspection, layers: Sequence[LayerReport]) -> Text:
    """The table in the roomiest form that fits: exact counts, else rounded ones, else closer columns.

    The bar takes what is left of the width. Where nothing fits, lines are longer than the screen.
    """
    for count, gap in product(("{:,}".format, short), (2, 1)):
        without = _table(screen, report, layers, count, gap, 0)
        room = 10_000 if screen.columns is None else screen.columns - max(map(len, without.plain.splitlines()))
        if room >= _BAR:
            break
    return _table(screen, report, layers, count, gap, max(_BAR, min(room, _WIDEST_BAR)))


def _table(
    screen: Screen,
    report: Inspection,
    layers: Sequence[LayerReport],
    count: Callable[[int], str],
    gap: int,
    width: int,
) -> Text:
    rows: list[list[str | Text]] = [
        [
            stem(layer.name),
            "x".join(map(str, layer.shape)),
            count(layer.parameters),
            count(layer.active),
            f"{layer.density:.4f}",
            bar(layer.density, width, screen),
            _dead(layer),
            "-" if layer.flops_share is None else f"{layer.flops_share:.1%}",
        ]
        for layer in layers
    ]
    # Counts of a selection are its own; the share of FLOPs is of the network.
    weights, active = sum(layer.parameters for layer in layers), sum(layer.active for layer in layers)
    shares = [layer.flops_share for layer in layers if layer.flops_share is not None]
    whole = "total" if len(layers) == len(report.layers) else f"{len(layers)} of {len(report.layers)} layers"
    bold = [Text(cell, style="bold") for cell in (whole, "", count(weights), count(active), f"{active / weights:.4f}")]
    rest = [Text(), Text(f"{sum(shares):.1%}" if shares else "-", style="bold")]
    rows.append([*bold, bar(active / weights, width, screen), *rest])
    columns = _COLUMNS if gap > 1 else [replace(column, title=column.title.partition(" ")[0]) for column in _COLUMNS]
    return table(columns, rows, gap=gap, width=None)


def _dead(layer: LayerReport) -> Text:
    dead = (layer.dead_inputs, layer.dead_outputs)
    return Text(f"{dead[0]}/{dead[1]}", style="yellow" if any(dead) else FAINT)
