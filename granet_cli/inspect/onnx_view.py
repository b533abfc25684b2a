"""An ONNX inspection for people: which program wrote it, inputs and outputs, and a table of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet.errors import shortened
from granet_cli.inspect.view import weight_columns
from granet_cli.render import Screen, size
from granet_cli.tables import TableColumn, table

if TYPE_CHECKING:
    from exporters.onnx_inspection import OnnxInspection, ValueReport
    from exporters.weight_counts import WeightReport

_LONGEST_WORD, _LONGEST_FACT = 20, 100


def show(screen: Screen, file: Path, count: int, report: OnnxInspection, layers: Sequence[WeightReport]) -> None:
    """Write an inspection of an ONNX file.

    Args:
        screen: where to write it.
        file: what was inspected.
        count: its bytes, those of files that belong to it included.
        report: on the whole file.
        layers: the weights to show.
    """
    screen.heading(file, size(count))
    facts = list(_facts(report))
    screen.facts(facts, width=max(len(name) for name, _ in facts) + 1)
    if report.layers:
        screen.print()
        screen.print(_weights(screen, report, layers))
    screen.notes(report.notes)


def _facts(report: OnnxInspection) -> Iterator[tuple[str, str]]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    yield "made by", f"{report.producer or 'a program that does not say'}, opset {opsets}, {report.nodes:,} nodes"
    yield "inputs", _values(report.inputs)
    yield "outputs", _values(report.outputs)
    for key, value in report.metadata.items():
        yield shortened(key, _LONGEST_WORD), _metadata(value)
    if report.density is None:
        yield "density", "unknown: no weights of layers were counted"
    else:
        yield "density", f"{report.density:.4f}: {report.active:,} of {report.parameters:,} weights are not zero"
    yield "other", f"{report.total_parameters - report.parameters:,} parameters that are not weights of layers"
    yield "stored", f"weights in {size(report.weight_bytes)}"


def _values(values: Iterable[ValueReport]) -> str:
    return ", ".join(f"{value.name} {value.type or ''}{_shape(value.shape)}".strip() for value in values) or "nothing"


def _shape(shape: Sequence[Any] | None) -> str:
    return "" if shape is None else f" [{', '.join('?' if item is None else str(item) for item in shape)}]"


def _metadata(value: Any) -> str:
    """Format an entry of the metadata on one line; of an object the values that are text or numbers."""
    if not isinstance(value, dict):
        return shortened(str(value), _LONGEST_FACT)
    words = {
        key: f"{item:.3g}" if isinstance(item, float) else shortened(str(item), _LONGEST_WORD)
        for key, item in value.items()
        if isinstance(item, str | int | float)
    }
    return shortened(", ".join(f"{key} {word}" for key, word in words.items()), _LONGEST_FACT)


def _weights(screen: Screen, report: OnnxInspection, layers: Sequence[WeightReport]) -> Text:
    stored = size(sum(layer.bytes for layer in layers))
    columns: list[TableColumn[WeightReport]] = [
        *weight_columns(layers, report.layers),
        TableColumn("stored", lambda layer: f"{layer.encoding} {layer.type}"),
        TableColumn("", lambda layer: size(layer.bytes), right=True, total=stored),
    ]
    return table(screen, columns, layers)
