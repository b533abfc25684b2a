"""The page: a head line, what is not shown, tables, curves, a section for each run, and what it all ran on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from granet.errors import listing
from granet_cli.report import curves, heatmap, tables
from granet_cli.report.markup import Markup, element, joined
from granet_cli.report.run_section import described, section
from granet_cli.report.style import policy, sheet

if TYPE_CHECKING:
    from granet.analysis.report import RunsReport
    from granet.analysis.run_report import RunReport
    from granet.runs.find import Problem

_CELLS = 3600
"""Of the pictures of layers over time, of all runs together and of each at the least."""
_FEWEST_CELLS = 900


def page(report: RunsReport) -> str:
    """The whole document; equal reports are equal pages."""
    runs, style = report.runs, sheet()
    title = headline(report)
    alone = len(runs) == 1
    numbers = {str(run.outcome.path): number for number, run in enumerate(runs, 1)}
    body = joined(
        element("header", element("h1", title), element("p", _subject(runs), class_="faint")),
        element(
            "main",
            _problems("Not shown", report.problems),
            _problems("Remarks", report.remarks),
            _results(report, numbers),
            None if alone else _curves(runs),
            _costs(report, numbers),
            _sections(runs),
            _environment(report),
        ),
        element("footer", element("p", _colophon(report), class_="faint")),
    )
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy(style)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="generator", content=f"granet {report.software.get('granet', '')}".strip()),
        element("title", f"{title} - granet report"),
        element("style", Markup(style)),
    )
    document = element("html", element("head", head), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def headline(report: RunsReport) -> str:
    """What the runs are, in a line."""
    runs = [run.outcome for run in report.runs]
    methods = _few([run.recipe.method.name for run in runs])
    where = f"{_few([run.model for run in runs])} on {_few([run.recipe.data.name for run in runs])}"
    if len(runs) == 1:
        return f"{methods}, {where}, seed {runs[0].seed}"
    return f"{len(runs)} runs: {methods}; {where}"


def _few(names: Sequence[str]) -> str:
    """Return each name once, and of many the first ones."""
    return listing(dict.fromkeys(names), 4)


def _subject(runs: Sequence[RunReport]) -> str:
    if len(runs) == 1:
        return str(runs[0].outcome.path)
    counts = [sum(run.state == state for run in runs) for state in ("finished", "running", "interrupted")]
    told = [f"{count} {state}" for count, state in zip(counts, ("finished", "running", "interrupted"), strict=True)]
    return ", ".join(text for text, count in zip(told, counts, strict=True) if count)


def _problems(title: str, problems: Sequence[Problem]) -> Markup | None:
    if not problems:
        return None
    items = [element("li", problem.message) for problem in problems]
    return element("section", element("h2", title), element("ul", items), class_="notice")


def _results(report: RunsReport, numbers: dict[str, int]) -> Markup:
    runs = report.runs
    common, names = tables.short_names(runs)
    unfinished = [run for run in runs if not run.outcome.finished]
    several = any(len(group.runs) > 1 for group in report.groups)
    snapshot = (
        "A run that is not finished is shown as of its newest checkpoint: what lies past it may be done once more. Its "
        "validation accuracy is the best so far or, before the final density, the newest."
    )
    return element(
        "section",
        element("h2", "Runs"),
        element("p", f"in {common}", class_="faint") if common else None,
        tables.results(runs, names),
        element("p", snapshot, class_="faint") if unfinished else None,
        tables.over_seeds(report.groups, numbers, names) if several else None,
    )


def _costs(report: RunsReport, numbers: dict[str, int]) -> Markup:
    apart = tables.settings_apart(report.groups, numbers) if len(report.runs) > 1 else None
    return element(
        "section",
        element("h2", "Costs and sizes"),
        tables.costs(report.runs),
        element(
            "p",
            "FLOPs: two for each multiplication with an active weight of convolutions and linear layers; training "
            "takes three passes a step, and dense gradients where an update needs them, with the masks that there "
            "were. Parameters count what no mask covers, too. Time is that of training, from the speeds that each "
            "epoch noted, without validation, saving and pauses.",
            class_="faint",
        ),
        joined(element("h2", "What is set differently"), apart) if apart is not None else None,
    )


def _curves(runs: Sequence[RunReport]) -> Markup:
    shown = runs[: curves.MOST_RUNS]
    notes = []
    if len(runs) > len(shown):
        notes.append(f"Curves are those of the first {len(shown)} runs; more could not be told apart.")
    if curves.is_thinned(shown):
        most = curves.most_points(len(shown))
        notes.append(f"Curves have up to {most} points: of longer ones the lowest and highest value of each stretch.")
    key = [
        element("li", _swatch(number), element("span", f"{number}: {name}"))
        for number, name in enumerate(tables.short_names(runs)[1][: len(shown)], 1)
    ]
    return element(
        "section",
        element("h2", "Curves"),
        element("ul", key, class_="legend", aria_label="Which curve is which run"),
        element("div", curves.of_several(runs), class_="charts"),
        element("p", " ".join(notes), class_="faint") if notes else None,
    )


def _swatch(number: int) -> Markup:
    drawn = element("line", x1="1", y1="5", x2="33", y2="5", class_=f"curve s{number - 1}")
    return element("svg", drawn, viewbox="0 0 34 10", aria_hidden="true")


def _sections(runs: Sequence[RunReport]) -> Markup:
    alone = len(runs) == 1
    shown = runs[: tables.MOST_DETAILED]
    cells = max(_CELLS * 3 // len(shown), _FEWEST_CELLS) if len(shown) > 3 else _CELLS
    left = len(runs) - len(shown)
    more = f"{left} more runs have no section of their own here; name fewer runs to see theirs."
    thin = alone and curves.is_thinned(shown)
    points = f"Curves have up to {curves.most_points(1)} points: of longer ones the lowest and highest of each stretch."
    coarse = any(
        heatmap.drawable(run)
        and run.history is not None
        and len(run.history.updates) + 1 > heatmap.columns(len(run.history.layers), cells)
        for run in shown
    )
    times = "Layers over time are shown at evenly spaced times, fewer than there were updates; --json has every update."
    return element(
        "section",
        element("h2", "The run" if alone else "Run by run"),
        [section(run, number, alone=alone, cells=cells) for number, run in enumerate(shown, 1)],
        element("p", points, class_="faint") if thin else None,
        element("p", times, class_="faint") if coarse else None,
        element("p", more, class_="faint") if left else None,
    )


def _environment(report: RunsReport) -> Markup:
    """What the folders tell of where runs were made, and what read them."""
    return element(
        "section",
        element("h2", "Environment"),
        tables.sessions(report.runs),
        tables.files(report.runs),
        element(
            "p",
            "Dates of files are in UTC; copying a folder may have changed them.",
            class_="faint",
        ),
        element("h4", "Of this report"),
        described(list(report.software.items())),
    )


def _colophon(report: RunsReport) -> str:
    return (
        f"Made by granet {report.software.get('granet', '')} from the checkpoints and histories of the runs, whose "
        "hashes were checked. This page needs nothing but itself: no script, and nothing from the network."
    )
