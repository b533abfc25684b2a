"""A history for people: what it rests on, a row for some of the updates, a row for every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.layers import stem
from granet_cli.render import FAINT, Column, Screen, bar, percent, printable, size, table

if TYPE_CHECKING:
    from torch import Tensor

    from granet.analysis.history import HistoryReport, UpdateReport
    from granet.history.replay import Finding

_MOST_ROWS = 16
_AGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BAR = 16

_UPDATES = tuple(
    Column(title, right=True)
    for title in ("step", "epoch", "density", "lost", "gained", "regrown", "churn", "explored", "initial")
)
_LAYERS = (
    Column("layer"),
    *(Column(title, right=True) for title in ("weights", "first", "density")),
    Column(""),
    *(Column(title, right=True) for title in ("lost", "gained", "explored", "initial")),
)
_MOMENT = (Column("layer"), *(Column(title, right=True) for title in ("weights", "active", "density")), Column(""))


def show(screen: Screen, report: HistoryReport, findings: Sequence[Finding] | None) -> None:
    """Writes it, and with ``findings`` what the comparison with the other files came to."""
    screen.print(Text(printable(report.path), style="bold"))
    for name, value in _facts(report):
        screen.print(Text(f"{name:<10}", style=FAINT).append(printable(value), style="default"))
    if report.updates:
        screen.print()
        screen.print(_updates(screen, report))
        hidden = len(report.updates) - _MOST_ROWS
        if hidden > 0:
            screen.print(Text(f"{hidden:,} of {len(report.updates):,} updates left out; --json has all", style=FAINT))
    if report.layers:
        screen.print()
        screen.print(_layers(screen, report))
    for note in report.notes:
        screen.prose(Text(f"note: {printable(note)}", style="yellow"))
    if findings is not None:
        screen.print()
        for finding in findings:
            screen.prose(_verdict(finding))


def findings_as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """What ``--verify --json`` adds."""
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
    chosen = _spread([report.before, *report.updates], _MOST_ROWS + 1)
    rows = [
        [
            f"{update.step:,}",
            f"{update.epoch:.2f}",
            f"{update.density:.4f}",
            *((f"{count:,}" for count in (update.lost, update.gained, update.regrown)) if number else ("", "", "")),
            f"{update.churn:.1%}" if number else "",
            f"{update.explored:.1%}",
            f"{update.initial:.1%}",
        ]
        for number, update in enumerate(chosen)
    ]
    return table(_UPDATES, rows, width=screen.columns)


def _spread(updates: Sequence[UpdateReport], most: int) -> list[UpdateReport]:
    """The first, the last, and others evenly between."""
    if len(updates) <= most:
        return list(updates)
    return [updates[round(number * (len(updates) - 1) / (most - 1))] for number in range(most)]


def _layers(screen: Screen, report: HistoryReport) -> Text:
    rows: list[list[str | Text]] = [
        [
            stem(layer.name),
            f"{layer.parameters:,}",
            f"{layer.first_density:.4f}",
            f"{layer.density:.4f}",
            bar(layer.density, _BAR, screen),
            f"{layer.lost:,}",
            f"{layer.gained:,}",
            f"{layer.explored:.1%}",
            f"{layer.initial:.1%}",
        ]
        for layer in report.layers
    ]
    return table(_LAYERS, rows, width=None)


def _verdict(finding: Finding) -> Text:
    if finding.fault is None:
        return Text(f"{printable(finding.what)}: ").append("as replayed", style="green")
    return Text(f"{printable(finding.what)}: ").append(printable(finding.fault), style="bold red")


@dataclass(frozen=True)
class MomentView:
    """The masks of the run in a folder after a step."""

    run: Path
    step: int
    masks: Mapping[str, Tensor]

    @property
    def layers(self) -> list[tuple[str, tuple[int, ...], int, int]]:
        """Name, shape, weights and active weights of each."""
        return [(name, tuple(mask.shape), mask.numel(), int(mask.sum())) for name, mask in self.masks.items()]

    def as_json(self) -> dict[str, Any]:
        """What ``--at --json`` prints."""
        parameters = sum(weights for _, _, weights, _ in self.layers)
        active = sum(on for _, _, _, on in self.layers)
        return {
            "path": str(self.run),
            "step": self.step,
            "parameters": parameters,
            "active": active,
            "density": active / parameters if parameters else 1.0,
            "layers": [
                {"name": name, "shape": list(shape), "parameters": weights, "active": on, "density": on / weights}
                for name, shape, weights, on in self.layers
            ],
        }


def show_moment(screen: Screen, moment: MomentView) -> None:
    """Writes the layers of the masks at one step."""
    rows: list[list[str | Text]] = [
        [stem(name), f"{weights:,}", f"{on:,}", f"{on / weights:.4f}", bar(on / weights, _BAR, screen)]
        for name, _, weights, on in moment.layers
    ]
    whole = moment.as_json()
    total = ("total", f"{whole['parameters']:,}", f"{whole['active']:,}", f"{whole['density']:.4f}")
    rows.append([*(Text(cell, style="bold") for cell in total), bar(whole["density"], _BAR, screen)])
    screen.print(Text(printable(moment.run), style="bold").append(f"  step {moment.step:,}", style=f"not bold {FAINT}"))
    screen.print(table(_MOMENT, rows, width=screen.columns))


def write_masks(file: Path, masks: Mapping[str, Tensor]) -> None:
    """Writes masks as bool tensors by the names of the weights.

    Raises:
        FileError: the file cannot be written.
    """
    from safetensors.torch import save

    from granet.files import atomic

    atomic.write(file, save(dict(masks)))
