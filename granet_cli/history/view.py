"""The history of a run on a terminal: facts, a row for some of the updates, a row for every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet.masks.mapping import active as active_counts
from granet.masks.mapping import density
from granet.masks.mapping import size as size_of
from granet_cli.layers import stem
from granet_cli.render import FAINT, Screen, percent, printable, size
from granet_cli.tables import Bar, TableColumn, table

if TYPE_CHECKING:
    from torch import Tensor

    from granet.analysis.history import HistoryReport, LayerHistory, UpdateReport
    from granet.history.replay import Finding

_MOST_ROWS = 16
_AGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def show(screen: Screen, report: HistoryReport, findings: Sequence[Finding] | None) -> None:
    """Write a history, and with ``findings`` how it compares with the checkpoints."""
    screen.print(Text(printable(report.path), style="bold"))
    screen.facts(_facts(report))
    if report.updates:
        screen.print()
        screen.print(_updates(screen, report))
        hidden = len(report.updates) - _MOST_ROWS
        if hidden > 0:
            screen.print(Text(f"{hidden:,} of {len(report.updates):,} updates left out; --json has all", style=FAINT))
    if report.layers:
        screen.print()
        screen.print(_layers(screen, report))
    screen.notes(report.notes)
    if findings is not None:
        screen.print()
        for finding in findings:
            screen.prose(_verdict(finding))


def findings_as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what ``--verify`` adds to the JSON."""
    return {"ok": not any(finding.fault for finding in findings), "findings": [asdict(f) for f in findings]}


def _facts(report: HistoryReport) -> list[tuple[str, str]]:
    end, cost = report.end, f"{len(report.updates):,} updates"
    if report.entropy_bytes:
        share = report.bytes / report.entropy_bytes
        cost += f" in {size(report.bytes)}, {share:.2f} times the entropy of so many changes"
    state = "finished" if report.finished else "not finished"
    facts = [
        (
            "made by",
            f"recipe {report.recipe}: {report.method} on {report.model}, {report.data}, seed {report.seed}",
        ),
        ("history", f"{cost}, from step {report.begins_at:,} to {report.step:,} of {report.total_steps:,}, {state}"),
        ("density", f"{report.before.density:.4f} at first, {end.density:.4f} now"),
        ("explored", f"{percent(end.explored)} of the {report.parameters:,} maskable weights"),
        ("initial", f"{percent(end.initial)} of the first active weights have been active ever since"),
    ]
    ages = [point for point in report.survival if point.updates in _AGES]
    if ages:
        told = ", ".join(f"{point.share:.1%} after {point.updates:,}" for point in ages)
        facts.append(("gained", f"still active of those gained: {told} update{'s' * (ages[-1].updates > 1)}"))
    return facts


def _updates(screen: Screen, report: HistoryReport) -> Text:
    """Lay out some of the updates below the masks that the run began with, which no update led to."""

    def changed(count: Callable[[UpdateReport], str]) -> Callable[[UpdateReport], str]:
        return lambda update: "" if update is report.before else count(update)

    columns: list[TableColumn[UpdateReport]] = [
        TableColumn("step", lambda update: f"{update.step:,}", right=True),
        TableColumn("epoch", lambda update: f"{update.epoch:.2f}", right=True),
        TableColumn("density", lambda update: f"{update.density:.4f}", right=True),
        TableColumn("lost", changed(lambda update: f"{update.lost:,}"), right=True),
        TableColumn("gained", changed(lambda update: f"{update.gained:,}"), right=True),
        TableColumn("regrown", changed(lambda update: f"{update.regrown:,}"), right=True),
        TableColumn("churn", changed(lambda update: f"{update.churn:.1%}"), right=True),
        TableColumn("explored", lambda update: f"{update.explored:.1%}", right=True),
        TableColumn("initial", lambda update: f"{update.initial:.1%}", right=True),
    ]
    return table(screen, columns, _spread([report.before, *report.updates], _MOST_ROWS + 1))


def _spread(updates: Sequence[UpdateReport], most: int) -> list[UpdateReport]:
    """Choose the first, the last, and others evenly between."""
    if len(updates) <= most:
        return list(updates)
    return [updates[round(number * (len(updates) - 1) / (most - 1))] for number in range(most)]


def _layers(screen: Screen, report: HistoryReport) -> Text:
    columns: list[TableColumn[LayerHistory]] = [
        TableColumn("layer", lambda layer: stem(layer.name)),
        TableColumn("weights", lambda layer: layer.parameters, right=True),
        TableColumn("first", lambda layer: f"{layer.first_density:.4f}", right=True),
        TableColumn("density", lambda layer: f"{layer.density:.4f}", right=True),
        TableColumn("", lambda layer: Bar(layer.density)),
        TableColumn("lost", lambda layer: layer.lost, right=True),
        TableColumn("gained", lambda layer: layer.gained, right=True),
        TableColumn("explored", lambda layer: f"{layer.explored:.1%}", right=True),
        TableColumn("initial", lambda layer: f"{layer.initial:.1%}", right=True),
    ]
    return table(screen, columns, report.layers)


def _verdict(finding: Finding) -> Text:
    if finding.fault is None:
        return Text(f"{printable(finding.what)}: ").append("as replayed", style="green")
    return Text(f"{printable(finding.what)}: ").append(printable(finding.fault), style="bold red")


def masks_as_json(run: Path, step: int, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what ``--at STEP --json`` prints: the masks of ``run`` after ``step``, by layer and in all."""
    parameters, active = size_of(masks), active_counts(masks)
    return {
        "path": str(run),
        "step": step,
        "parameters": parameters,
        "active": sum(active.values()),
        "density": density(masks),
        "layers": [
            {
                "name": name,
                "shape": list(mask.shape),
                "parameters": mask.numel(),
                "active": active[name],
                "density": active[name] / mask.numel(),
            }
            for name, mask in masks.items()
        ],
    }


def show_masks(screen: Screen, moment: Mapping[str, Any]) -> None:
    """Write the layers of the masks at one step, from what ``masks_as_json`` returned."""
    columns: list[TableColumn[Mapping[str, Any]]] = [
        TableColumn("layer", lambda layer: stem(layer["name"]), total="total"),
        TableColumn("weights", lambda layer: layer["parameters"], right=True, total=moment["parameters"]),
        TableColumn("active", lambda layer: layer["active"], right=True, total=moment["active"]),
        TableColumn("density", lambda layer: f"{layer['density']:.4f}", right=True, total=f"{moment['density']:.4f}"),
        TableColumn("", lambda layer: Bar(layer["density"]), total=Bar(moment["density"])),
    ]
    screen.heading(moment["path"], f"step {moment['step']:,}")
    screen.print(table(screen, columns, moment["layers"]))


def write_masks(file: Path, masks: Mapping[str, Tensor]) -> None:
    """Write masks as bool tensors by the names of the weights.

    Raises:
        FileError: the file cannot be written.
    """
    from safetensors.torch import save

    from granet.files import atomic

    atomic.write(file, save(dict(masks)))
