"""A difference for people: the two checkpoints, what is set differently, a row for every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from granet_cli.compare.view import told
from granet_cli.layers import stem
from granet_cli.render import FAINT, Column, Screen, bar, percent, printable, short, size, table

if TYPE_CHECKING:
    from granet.analysis.checkpoint_diff import Difference, Overlap, Side

_BAR = 12
_LAYERS = (
    Column("layer"),
    *(Column(title, right=True) for title in ("weights", "density A", "density B", "IoU")),
    Column(""),
    *(Column(title, right=True) for title in ("lost", "grown", "regrown", "flipped", "change")),
)


def show(screen: Screen, found: Difference) -> None:
    """Writes it."""
    screen.print(_sides(screen, found))
    for note in (*found.notes, *(note for side in found.sides for note in side.report.notes)):
        screen.prose(Text(f"note: {printable(note)}", style="yellow"))
    screen.print()
    if found.same:
        screen.print(Text("the same state, bit for bit", style="green"))
        return
    rows = [[printable(key), told(one), told(other)] for key, one, other in found.settings]
    if rows:
        screen.print(table((Column("setting"), Column("A"), Column("B")), rows, width=screen.columns))
        screen.print()
    if found.layers:
        screen.print(_layers(screen, found))
    rest = found.unmasked
    screen.print(Text(f"{rest.parameters:,} parameters without a mask: change {_change(rest)}", style=FAINT))


def _sides(screen: Screen, found: Difference) -> Text:
    facts = [_facts(side) for side in found.sides]
    rows = [[Text(name, style=FAINT), one, other] for (name, one), (_, other) in zip(*facts, strict=True)]
    paths = [printable(side.path) for side in found.sides]
    titles = (Column(""), Column(f"A  {paths[0]}"), Column(f"B  {paths[1]}"))
    return table(titles, rows, width=screen.columns)


def _facts(side: Side) -> list[tuple[str, str]]:
    report, flops, accuracies = side.report, side.report.flops, side.accuracies
    where = f"step {report.step:,}" + ("" if report.epoch is None else f", epoch {report.epoch:.2f}")
    cost = "unknown"
    if flops is not None and flops["dense"]:
        cost = f"{short(flops['active'])}, {flops['active'] / flops['dense']:.1%} of dense"
    return [
        ("made by", f"{report.recipe}: {report.method} on {report.model}, seed {report.seed}"),
        ("stands at", where),
        ("validation", _accuracy(accuracies["validation"])),
        ("test", _accuracy(accuracies["test"])),
        ("density", f"{report.density:.4f}: {report.active:,} of {report.parameters:,}"),
        ("FLOPs", cost),
        ("file", size(side.bytes)),
    ]


def _accuracy(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _layers(screen: Screen, found: Difference) -> Text:
    rows: list[list[str | Text]] = [_row(screen, stem(name), overlap) for name, overlap in found.layers.items()]
    total = [
        cell if isinstance(cell, Text) else Text(cell, style="bold") for cell in _row(screen, "total", found.total)
    ]
    return table(_LAYERS, [*rows, total], width=None)


def _row(screen: Screen, name: str, overlap: Overlap) -> list[str | Text]:
    return [
        name,
        f"{overlap.parameters:,}",
        *(f"{density:.4f}" for density in overlap.densities),
        f"{overlap.iou:.3f}",
        bar(overlap.iou, _BAR, screen),
        *(f"{count:,}" for count in (overlap.lost, overlap.grown, overlap.regrown, overlap.flipped)),
        _change(overlap),
    ]


def _change(overlap: Overlap) -> str:
    return "-" if overlap.change is None else f"{overlap.change:.3f}"
