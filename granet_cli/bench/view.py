"""A measurement on the screen: a table, what each ratio means, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from granet_cli.render import ACCENT, FAINT, Column, Screen, printable, short, size, table

if TYPE_CHECKING:
    from exporters.bench.report import BenchReport, BenchResult

_STYLES = {"faster": "green", "slower": "red", "control": FAINT}


def show(screen: Screen, report: BenchReport) -> None:
    """Writes all of a report that a person wants to read; the rest is in its JSON."""
    screen.prose(_heading(report))
    if report.results:
        screen.print()
        screen.print(_figures(report.results))
        screen.print()
        for sentence in _sentences(report.results):
            screen.prose(sentence)
    for failure in report.failures:
        where = f"{failure.model}, batch {failure.batch}, {failure.precision}"
        screen.prose(Text("failed: ", style="bold red").append(printable(f"{where}: {failure.error}"), style="default"))
    for skipped in report.skipped:
        screen.prose(f"skipped: {skipped.what}: {skipped.why}")
    for warning in report.warnings:
        screen.prose(Text("careful: ", style="bold yellow").append(printable(warning), style="default"))


def _heading(report: BenchReport) -> Text:
    environment, method = report.environment, report.method
    gpu = environment.get("gpu")
    place = gpu["name"] if isinstance(gpu, dict) else f"{environment['cpu']}, {method['threads']} threads"
    runtime = environment["onnxruntime"]["package"]
    level = round(100 * float(method["level"]))
    return Text(f"{report.provider} on {place}, {printable(runtime)}; {method['timed']}; {level} % intervals")


def _figures(results: Sequence[BenchResult]) -> Text:
    several = len({(result.precision, result.provider) for result in results}) > 1
    graphs = any(result.flops is not None for result in results)
    columns = [
        Column("model"),
        *([Column("run as")] if several else []),
        Column("batch", right=True),
        Column("median ms", right=True),
        Column("p95 ms", right=True),
        Column("images/s", right=True),
        Column("file", right=True),
        *([Column("FLOPs", right=True), Column("active", right=True)] if graphs else []),
        Column("ratio", right=True),
        Column("interval", right=True),
        Column(""),
    ]
    rows: list[list[str | Text]] = []
    for result in sorted(results, key=lambda result: (result.batch, result.precision)):  # stable: else as measured
        found = result.ratio
        rows.append(
            [
                printable(result.model),
                *([f"{result.provider} {result.precision}"] if several else []),
                str(result.batch),
                _milliseconds(result.times.median),
                _milliseconds(result.times.p95),
                f"{result.images_per_s:,.0f}",
                size(result.bytes),
                *([_short(result.flops), _short(result.active_flops)] if graphs else []),
                Text(f"{found.value:.3f}" if found else "", style=ACCENT),
                f"{found.low:.3f} to {found.high:.3f}" if found else "",
                Text(result.outcome, style=_STYLES.get(result.outcome, "default")),
            ]
        )
    return table(columns, rows, width=None)


def _sentences(results: Sequence[BenchResult]) -> list[Text]:
    """One for each model and batch, but for controls; what is the same for several batches is said once."""
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
    """Three digits that mean something."""
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _short(number: float | None) -> str:
    return "" if number is None else short(number)
