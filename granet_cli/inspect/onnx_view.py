"""An inspection of an ONNX file for people: who wrote it, what goes in and out, and a table of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.layers import stem
from granet_cli.render import FAINT, Column, Screen, bar, printable, short, size, table

if TYPE_CHECKING:
    from exporters.onnx_inspection import OnnxInspection, ValueReport, WeightReport

_COLUMNS = (
    Column("layer"),
    Column("shape"),
    Column("weights", right=True),
    Column("active", right=True),
    Column("density", right=True),
    Column(""),
    Column("stored"),
    Column("", right=True),
)
_BAR, _WIDEST_BAR = 6, 24
_LONGEST_WORD, _LONGEST_FACT = 20, 100


def show(screen: Screen, file: Path, count: int, report: OnnxInspection, layers: Sequence[WeightReport]) -> None:
    """Writes it.

    Args:
        screen: where to.
        file: what was inspected.
        count: its bytes, those of files that belong to it included.
        report: of the whole file.
        layers: the weights to show.
    """
    screen.print(Text(printable(file), style="bold").append(f"  {size(count)}", style=f"not bold {FAINT}"))
    facts = list(_facts(report))
    width = max(len(name) for name, _ in facts) + 1
    for name, value in facts:
        screen.print(Text(f"{printable(name):<{width}}", style=FAINT).append(printable(value), style="default"))
    if report.layers:
        screen.print()
        screen.print(_weights(screen, report, layers))
    for note in report.notes:
        screen.print(Text(f"note: {printable(note)}", style="yellow"))


def _facts(report: OnnxInspection) -> Iterator[tuple[str, str]]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    yield "made by", f"{report.producer or 'a program that does not say'}, opset {opsets}, {report.nodes:,} nodes"
    yield "takes", _values(report.inputs)
    yield "gives", _values(report.outputs)
    for key, value in report.metadata.items():
        yield _cut(key, _LONGEST_WORD), _told(value)
    yield "density", f"{report.density:.4f}: {report.active:,} of {report.parameters:,} weights are not zero"
    yield "besides", f"{report.total_parameters - report.parameters:,} other parameters"
    yield "stored", f"weights in {size(report.weight_bytes)}"


def _values(values: Iterable[ValueReport]) -> str:
    return ", ".join(f"{value.name} {value.type or ''}{_shape(value.shape)}".strip() for value in values) or "nothing"


def _shape(shape: Sequence[Any] | None) -> str:
    return "" if shape is None else f" [{', '.join('?' if item is None else str(item) for item in shape)}]"


def _told(value: Any) -> str:
    """A line on what the metadata say: of an object what is neither a list nor another object."""
    if not isinstance(value, dict):
        return _cut(str(value), _LONGEST_FACT)
    words = {
        key: f"{item:.3g}" if isinstance(item, float) else _cut(str(item), _LONGEST_WORD)
        for key, item in value.items()
        if isinstance(item, str | int | float)
    }
    return _cut(", ".join(f"{key} {word}" for key, word in words.items()), _LONGEST_FACT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _weights(screen: Screen, report: OnnxInspection, layers: Sequence[WeightReport]) -> Text:
    """The table with exact counts, or rounded ones where the screen is narrow; the bar takes what is left."""
    without = _table(screen, report, layers, exact=True, width=0)
    room = 10_000 if screen.columns is None else screen.columns - _widest(without)
    exact = room >= _BAR
    if not exact:
        room = (screen.columns or 0) - _widest(_table(screen, report, layers, exact=False, width=0))
    return _table(screen, report, layers, exact=exact, width=max(_BAR, min(room, _WIDEST_BAR)))


def _table(screen: Screen, report: OnnxInspection, layers: Sequence[WeightReport], *, exact: bool, width: int) -> Text:
    def count(number: int) -> str:
        return f"{number:,}" if exact else short(number)

    rows: list[list[str | Text]] = [
        [
            stem(layer.name),
            "x".join(map(str, layer.shape)),
            count(layer.parameters),
            count(layer.active),
            f"{layer.density:.4f}",
            bar(layer.density, width, screen),
            f"{layer.encoding} {layer.type}",
            size(layer.bytes),
        ]
        for layer in layers
    ]
    weights, active = sum(layer.parameters for layer in layers), sum(layer.active for layer in layers)
    density = active / weights if weights else 1.0
    whole = "total" if len(layers) == len(report.layers) else f"{len(layers)} of {len(report.layers)} layers"
    bold = [Text(cell, style="bold") for cell in (whole, "", count(weights), count(active), f"{density:.4f}")]
    stored = Text(size(sum(layer.bytes for layer in layers)), style="bold")
    rows.append([*bold, bar(density, width, screen), Text(), stored])
    return table(_COLUMNS, rows, width=None)


def _widest(text: Text) -> int:
    return max(map(len, text.plain.splitlines()))
