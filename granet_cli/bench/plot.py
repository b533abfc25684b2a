"""A measurement as a picture: ratios to the control with their intervals, and images a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from granet_cli.pictures import COLOURS, MARKERS, save, styled

if TYPE_CHECKING:
    from exporters.bench.report import BenchReport, BenchResult

_LONGEST = 48


def draw(file: Path, report: BenchReport) -> None:
    """Writes the picture of a report with results to ``file``, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(_label(result, report) for result in report.results))
    looks = {
        label: (COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]) for number, label in enumerate(labels)
    }
    with styled():
        compared = [result for result in report.results if result.ratio is not None]
        figure = Figure(figsize=(9.6, 2.4 + 0.22 * len(compared)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _ratios(left, compared, report, looks)
        _rates(right, report, looks)
        gpu = report.environment.get("gpu")
        place = gpu["name"] if isinstance(gpu, dict) else report.environment["cpu"]
        figure.suptitle(f"{report.provider} on {place}")
        save(figure, file)


def _ratios(axes: Any, compared: list[BenchResult], report: BenchReport, looks: dict[str, tuple[str, str]]) -> None:
    """A line for each model and batch; the control is at 1."""
    axes.axvline(1.0, color="#666666", lw=1)
    names = []
    for row, result in enumerate(reversed(compared)):
        found = result.ratio
        if found is None:
            continue
        colour, marker = looks[_label(result, report)]
        below = max(found.value - found.low, 0.0)
        above = max(found.high - found.value, 0.0) if found.high < float("inf") else 0.0
        axes.errorbar(found.value, row, xerr=[[below], [above]], fmt=marker, color=colour, capsize=3, ms=5)
        names.append(f"{_label(result, report)}, batch {result.batch}")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.set(xlabel="time / time of the control", title="Ratio, with its interval")


def _rates(axes: Any, report: BenchReport, looks: dict[str, tuple[str, str]]) -> None:
    """Images a second over the batch size, a line for each model."""
    for label, (colour, marker) in looks.items():
        points = sorted(
            (result.batch, result.images_per_s) for result in report.results if _label(result, report) == label
        )
        dashed = any(result.role == "control" for result in report.results if _label(result, report) == label)
        axes.plot(
            *zip(*points, strict=True), color=colour, marker=marker, ms=5, ls="--" if dashed else "-", label=label
        )
    batches = sorted({result.batch for result in report.results})
    axes.set_xscale("log")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(0, 1.1 * max(result.images_per_s for result in report.results))
    axes.set(xlabel="batch size, images", ylabel="images/s", title="Rate (controls dashed)")
    axes.legend(frameon=False, fontsize=7)


def _label(result: BenchResult, report: BenchReport) -> str:
    several = len({each.precision for each in report.results}) > 1
    name = result.model if len(result.model) <= _LONGEST else f"...{result.model[3 - _LONGEST :]}"
    return f"{name}, {result.precision}" if several else name
