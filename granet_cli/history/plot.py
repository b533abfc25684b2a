"""A history as a picture: densities, what was explored and what remains, churn, and how long weights stay."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from granet_cli.pictures import COLOURS, GRID, REMARK, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from granet.analysis.history import HistoryReport, UpdateReport

_FIRST, _SECOND, _ALL = COLOURS[0], COLOURS[1], COLOURS[-1]


def draw(file: Path, report: HistoryReport) -> None:
    """Writes the picture.

    Raises:
        UsageError: the masks never changed.
        FileError: the file cannot be written.
    """
    from granet.errors import UsageError

    if not report.updates:
        raise UsageError("the masks of this run never changed, so there is nothing to draw", where="--plot")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with styled():
        figure = Figure(figsize=(9.6, 6.8), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        (densities, remains), (churn, survival) = figure.subplots(2, 2)
        _densities(figure, densities, report)
        _remains(remains, report)
        _churn(churn, report)
        _survival(survival, report)
        for axes in (densities, remains, churn, survival):
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
        figure.suptitle(f"{report.method}, {report.model} on {report.data}, seed {report.seed}", x=0.01, ha="left")
        if report.notes:
            figure.supxlabel(textwrap.fill("; ".join(report.notes), 150), fontsize=7, color=REMARK)
        save(figure, file)


def _states(report: HistoryReport) -> list[UpdateReport]:
    """The beginning, every update, and how it stayed until the newest checkpoint."""
    return [report.before, *report.updates, report.end]


def _epochs(report: HistoryReport) -> list[float]:
    """Their times."""
    updates = (update.epoch for update in report.updates)
    return [report.before.epoch, *updates, report.step / report.steps_per_epoch]


def _densities(figure: Figure, axes: Axes, report: HistoryReport) -> None:
    """Every layer in a colour by its place in the network, and all of them together in black."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    states = _states(report)
    count = len(report.layers)
    # Of the colours that colour-blind people see in order, those that are not too pale for lines.
    colours = colormaps["cividis"].resampled(256)
    shades = [colours(0.92 * number / max(count - 1, 1)) for number in range(count)]
    for layer, shade in zip(report.layers, shades, strict=True):
        shares = [100 * state.layers[layer.name] / layer.parameters for state in states]
        axes.step(_epochs(report), shares, where="post", color=shade, linewidth=1.0)
    whole = [100 * state.density for state in states]
    axes.step(_epochs(report), whole, where="post", color=_ALL, linewidth=2.0, linestyle=(0, (4, 1.5)))
    axes.plot([], [], color=_ALL, linewidth=2.0, linestyle=(0, (4, 1.5)), label="all layers")
    axes.legend(frameon=False, loc="upper right")
    bar = figure.colorbar(
        ScalarMappable(BoundaryNorm([0.5 + n for n in range(count + 1)], count), ListedColormap(shades)),
        ax=axes,
        label="layer, from the input to the output",
        ticks=_few(count),
        pad=0.02,
    )
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    lowest = [100 * n / layer.parameters for layer in report.layers for s in states if (n := s.layers[layer.name])]
    _logarithmic(axes, min(lowest))
    axes.set_title("density of each layer", loc="left", fontsize=9)
    axes.set_ylabel("active weights, %")
    axes.set_xlabel("epoch")


def _few(count: int) -> list[int]:
    """Numbers of layers to write beside the colours: the first, the last, and some between."""
    wanted = min(count, 6)
    return sorted({1 + round(number * (count - 1) / max(wanted - 1, 1)) for number in range(wanted)})


def _logarithmic(axes: Axes, least: float) -> None:
    """Plain numbers from below the least per cent to a hundred."""
    from matplotlib.ticker import NullLocator

    ticks = [digit * 10.0**decade for decade in range(-6, 3) for digit in (1, 2, 5)]
    first = max((index for index, tick in enumerate(ticks) if tick <= least), default=0)
    shown = [tick for tick in ticks[first:] if tick <= 100]
    axes.set_yscale("log")
    axes.set_ylim(shown[0] / 1.1, 200)  # with room for the legend
    axes.set_yticks(shown, [f"{tick:.10g}" for tick in shown])
    axes.yaxis.set_minor_locator(NullLocator())


def _remains(axes: Axes, report: HistoryReport) -> None:
    states = _states(report)
    epochs = _epochs(report)
    axes.step(epochs, [100 * s.explored for s in states], where="post", color=_FIRST, label="active at some time")
    axes.step(
        epochs,
        [100 * s.initial for s in states],
        where="post",
        color=_SECOND,
        linestyle="--",
        label="of the first active ones: active ever since",
    )
    axes.set_ylim(-3, 133)  # with room for the legend
    axes.set_yticks(range(0, 101, 20))
    axes.legend(frameon=False, loc="upper right")
    axes.set_title("exploration, and survival of the first weights", loc="left", fontsize=9)
    axes.set_ylabel("weights, %")
    axes.set_xlabel("epoch")


def _churn(axes: Axes, report: HistoryReport) -> None:
    epochs = [update.epoch for update in report.updates]
    lost = [100 * update.lost / max(update.active, 1) for update in report.updates]
    gained = [100 * update.churn for update in report.updates]
    # Often as many are gained as lost: the larger, hollow markers show around the others.
    axes.plot(
        epochs, lost, color=_SECOND, marker="o", markersize=6, markerfacecolor="none", linewidth=0.8, label="lost"
    )
    axes.plot(epochs, gained, color=_FIRST, marker="^", markersize=3, linewidth=0.8, label="gained (churn)")
    axes.set_ylim(0, 1.35 * max(*lost, *gained, 1.0))  # with room for the legend
    axes.legend(frameon=False, loc="upper right")
    axes.set_title("what each update moved", loc="left", fontsize=9)
    axes.set_ylabel("per active weight, %")
    axes.set_xlabel("epoch")


def _survival(axes: Axes, report: HistoryReport) -> None:
    ages = [point.updates for point in report.survival]
    if ages:
        axes.plot(ages, [100 * point.share for point in report.survival], color=_FIRST, marker="o", markersize=3)
        _ages(axes, ages[-1])
    else:
        axes.text(0.5, 0.5, "no gained weight was there at a later update", ha="center", transform=axes.transAxes)
    axes.set_ylim(-3, 105)
    axes.set_yticks(range(0, 101, 20))
    axes.set_title("survival of the weights gained", loc="left", fontsize=9)
    axes.set_ylabel("still active, %")
    axes.set_xlabel("updates since they were gained")


def _ages(axes: Axes, oldest: int) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import NullLocator

    ticks = [digit * 10**decade for decade in range(9) for digit in (1, 2, 5) if digit * 10**decade <= oldest]
    axes.set_xscale("log")
    axes.set_xlim(0.9, max(1.1 * oldest, 2))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
