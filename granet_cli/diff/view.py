"""A difference for people: the two checkpoints, what is set differently, a row for every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from granet_cli.layers import stem
from granet_cli.render import FAINT, Screen, percent, printable, setting, short, size
from granet_cli.tables import Bar, TableColumn, table

if TYPE_CHECKING:
    from granet.analysis.checkpoint_diff import ChangedSetting, Difference, InspectedCheckpoint, Overlap


def show(screen: Screen, found: Difference) -> None:
    """Write a difference."""
    paths = [printable(side.path) for side in found.sides]
    facts = [_facts(side) for side in found.sides]
    sides: list[TableColumn[str]] = [
        TableColumn("", lambda name: Text(name, style=FAINT)),
        TableColumn(f"A  {paths[0]}", lambda name: facts[0][name]),
        TableColumn(f"B  {paths[1]}", lambda name: facts[1][name]),
    ]
    screen.print(table(screen, sides, facts[0]))
    screen.notes([*found.notes, *(note for side in found.sides for note in side.report.notes)])
    screen.print()
    if found.same:
        screen.print(Text("the same state, bit for bit", style="green"))
        return
    settings: list[TableColumn[ChangedSetting]] = [
        TableColumn("setting", lambda row: row.key),
        TableColumn("A", lambda row: setting(row.first)),
        TableColumn("B", lambda row: setting(row.second)),
    ]
    if found.settings:
        screen.print(table(screen, settings, found.settings))
        screen.print()
    if found.layers:
        screen.print(_layers(screen, found))
    rest = found.unmasked
    screen.print(Text(f"{rest.parameters:,} parameters without a mask: change {_change(rest) or '-'}", style=FAINT))


def _facts(side: InspectedCheckpoint) -> dict[str, str | None]:
    report, flops, accuracies = side.report, side.report.flops, side.accuracies
    cost = "unknown"
    if flops is not None and flops["dense"]:
        cost = f"{short(flops['active'])}, {flops['active'] / flops['dense']:.1%} of dense"
    return {
        "made by": f"{report.recipe}: {report.method} on {report.model}, seed {report.seed}",
        "progress": f"step {report.step:,}" + ("" if report.epoch is None else f", epoch {report.epoch:.2f}"),
        "validation": _accuracy(accuracies["validation"]),
        "test": _accuracy(accuracies["test"]),
        "density": f"{report.density:.4f}: {report.active:,} of {report.parameters:,}",
        "FLOPs": cost,
        "file": size(side.bytes),
    }


def _accuracy(share: float | None) -> str | None:
    return None if share is None else percent(share)


def _layers(screen: Screen, found: Difference) -> Text:
    total = found.total
    columns: list[TableColumn[tuple[str, Overlap]]] = [
        TableColumn("layer", lambda row: stem(row[0]), total="total"),
        TableColumn("weights", lambda row: row[1].parameters, right=True, total=total.parameters),
        TableColumn("density A", lambda row: f"{row[1].density[0]:.4f}", right=True, total=f"{total.density[0]:.4f}"),
        TableColumn("density B", lambda row: f"{row[1].density[1]:.4f}", right=True, total=f"{total.density[1]:.4f}"),
        TableColumn("IoU", lambda row: f"{row[1].iou:.3f}", right=True, total=f"{total.iou:.3f}"),
        TableColumn("", lambda row: Bar(row[1].iou), total=Bar(total.iou)),
        TableColumn("lost", lambda row: row[1].lost, right=True, total=total.lost),
        TableColumn("grown", lambda row: row[1].grown, right=True, total=total.grown),
        TableColumn("regrown", lambda row: row[1].regrown, right=True, total=total.regrown),
        TableColumn("flipped", lambda row: row[1].flipped, right=True, total=total.flipped),
        TableColumn("change", lambda row: _change(row[1]), right=True, total=_change(total)),
    ]
    return table(screen, columns, found.layers.items())


def _change(overlap: Overlap) -> str | None:
    return None if overlap.change is None else f"{overlap.change:.3f}"
