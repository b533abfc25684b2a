"""The screen of ``granet bench``: a table, what each ratio means, failures and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from granet.errors import counted
from granet_cli.render import ACCENT, FAINT, Screen, printable, short, size
from granet_cli.tables import TableColumn, table

if TYPE_CHECKING:
    from exporters.bench.report import BenchReport, BenchResult

_STYLES = {"faster": "green", "slower": "red", "control": FAINT}


def show(screen: Screen, report: BenchReport) -> None:
    """Write the parts of a report that people read; all of it is in the JSON."""
    screen.prose(_heading(report))
    if report.results:
        screen.print()
        screen.print(_figures(screen, report.results))
        screen.print()
        for sentence in _sentences(report.results):
            screen.prose(sentence)
    for failure in report.failures:
        where = f"{failure.model}, batch {failure.batch}, {failure.precision}"
        screen.prose(Text("failed: ", style="bold red").append(printable(f"{where}: {failure.error}"), style="default"))
    for skipped in report.skipped:
        screen.prose(f"skipped: {skipped.what}: {skipped.why}")
    for warning in report.warnings:
        screen.prose(Text("warning: ", style="bold yellow").append(printable(warning), style="default"))


def _heading(report: BenchReport) -> Text:
    environment, method = report.environment, report.method
    gpu = environment.get("gpu")
    place = gpu["name"] if isinstance(gpu, dict) else f"{environment['cpu']}, {counted(method['threads'], 'thread')}"
    runtime = environment["onnxruntime"]["package"]
    level = round(100 * float(method["level"]))
    return Text(f"{report.provider} on {place}, {printable(runtime)}; {method['timed']}; {level} % intervals")


def _figures(screen: Screen, results: Sequence[BenchResult]) -> Text:
    several = len({(result.precision, result.provider) for result in results}) > 1
    counted = any(result.flops is not None for result in results)
    columns: list[TableColumn[BenchResult]] = [
        TableColumn("model", lambda result: result.model),
        TableColumn("run as", lambda result: f"{result.provider} {result.precision}", shown=several),
        TableColumn("batch", lambda result: str(result.batch), right=True),
        TableColumn("median ms", lambda result: _milliseconds(result.times.median), right=True),
        TableColumn("p95 ms", lambda result: _milliseconds(result.times.p95), right=True),
        TableColumn("images/s", lambda result: f"{result.images_per_s:,.0f}", right=True),
        TableColumn("file", lambda result: size(result.bytes), right=True),
        TableColumn("FLOPs", lambda result: _short(result.flops), right=True, shown=counted),
        TableColumn("active", lambda result: _short(result.active_flops), right=True, shown=counted),
        TableColumn("ratio", _ratio, right=True),
        TableColumn("interval", _interval, right=True),
        TableColumn("", lambda result: Text(result.outcome, style=_STYLES.get(result.outcome, "default"))),
    ]
    in_order = sorted(results, key=lambda result: (result.batch, result.precision))  # stable: else as measured
    return table(screen, columns, in_order)


def _ratio(result: BenchResult) -> Text:
    return Text(f"{result.ratio.value:.3f}" if result.ratio else "", style=ACCENT)


def _interval(result: BenchResult) -> str:
    return f"{result.ratio.low:.3f} to {result.ratio.high:.3f}" if result.ratio else ""


def _sentences(results: Sequence[BenchResult]) -> list[Text]:
    """Return the verdict of each model; one that is the same for several batches comes once."""
    said: dict[tuple[str, str], list[str]] = {}
    precisions = {result.precision for result in results}
    for result in results:
        if result.role == "model":
            when = f"batch {result.batch}" + (f" {result.precision}" if len(precisions) > 1 else "")
            said.setdefault((result.model, result.verdict), []).append(when)
    return [
        Text(f"{printable(model)}, {', '.join(when)}: ", style="bold").append(printable(verdict), style="not bold")
        for (model, verdict), when in said.items()
    ]


def _milliseconds(seconds: float) -> str:
    """Format a time in milliseconds, to three significant digits or more."""
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _short(number: float | None) -> str:
    return "" if number is None else short(number)
