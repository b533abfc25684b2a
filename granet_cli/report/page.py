"""The page: what the template ``page.html`` is filled with."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from granet.errors import listing
from granet_cli.charts.palette import DARK, DISTINCT_LINES, LIGHT, colour, dash
from granet_cli.render import printable
from granet_cli.report import charts, facts, tables

if TYPE_CHECKING:
    from granet.analysis.report import RunsReport
    from granet.analysis.run_report import RunReport

_CELLS = 3600
"""Of the charts of layers over time: of three runs together, and of each at the most."""
_FEWEST_CELLS = 900


def page(report: RunsReport) -> str:
    """Return the whole document; equal reports are equal pages.

    The template escapes everything but ``Markup``, and shows characters that steer lines or the direction of writing.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs, style = report.runs, style_sheet()
    alone = len(runs) == 1
    curves_of = runs[:DISTINCT_LINES]
    detailed = runs[: tables.MOST_DETAILED]
    numbers = {str(run.summary.path): number for number, run in enumerate(runs, 1)}
    folder, names = tables.short_names(runs)
    cells = max(_CELLS * 3 // max(len(detailed), 3), _FEWEST_CELLS)
    table, remark = tables.sessions(runs)
    document = templates.get_template(
        "page.html"
    ).render(
        style=Markup(style),  # noqa: S704  ours
        policy=policy(style),
        report=report,
        title=headline(report),
        subject=str(runs[0].summary.path) if alone else _states(runs),
        alone=alone,
        folder=folder,
        results=tables.results(runs, names),
        seeds=tables.over_seeds(report.groups, numbers, names) if len(report.groups) < len(runs) else None,
        curves=[] if alone else charts.of_several(runs),
        legend=[(colour(index), dash(index), name) for index, name in enumerate(names[: len(curves_of)])],
        points=charts.points_per_curve(len(curves_of)) if charts.is_thinned(curves_of) else None,
        costs=tables.costs(runs),
        differing=None if alone else tables.settings_apart(report.groups, numbers),
        sections=[_section(run, number, alone=alone, cells=cells) for number, run in enumerate(detailed, 1)],
        coarse=any(_is_coarse(run, cells) for run in detailed),
        sessions=table,
        sessions_remark=remark,
        files=tables.files(runs),
    )
    return document.lstrip() + "\n"


def _section(run: RunReport, number: int, *, alone: bool, cells: int) -> dict[str, object]:
    """Return what the section of a run shows; its curves only when it is ``alone`` on the page."""
    over_time = charts.has_layers_over_time(run)
    return {
        "name": f"run-{number}",
        "run": run,
        "facts": facts.facts(run),
        "lineage": facts.lineage(run),
        "curves": charts.of_one(run) if alone else [],
        "over_time": charts.layers_over_time(run, f"layers-{number}", cells=cells) if over_time else None,
        "layers": tables.layers(run),
        "settings": tables.settings(run),
    }


def _is_coarse(run: RunReport, cells: int) -> bool:
    """Return whether layers over time are shown at fewer times than there were updates."""
    history = run.history
    return (
        charts.has_layers_over_time(run)
        and history is not None
        and len(history.updates) + 1 > charts.columns(len(history.layers), cells)
    )


def headline(report: RunsReport) -> str:
    """Return what the runs are, in a line."""
    runs = [run.summary for run in report.runs]
    methods = _few([run.recipe.method.name for run in runs])
    subject = f"{_few([run.model for run in runs])} on {_few([run.recipe.data.name for run in runs])}"
    return f"{methods}, {subject}, seed {runs[0].seed}" if len(runs) == 1 else f"{len(runs)} runs: {methods}; {subject}"


def _few(names: Sequence[str]) -> str:
    """Return each name once, and of many the first ones."""
    return listing(dict.fromkeys(names), 4)


def _states(runs: Sequence[RunReport]) -> str:
    counts = Counter(run.state for run in runs)
    return ", ".join(f"{counts[state]} {state}" for state in ("finished", "running", "interrupted") if counts[state])


def style_sheet() -> str:
    """Return the style sheet: colours for light, dark and paper as CSS variables, and ``style.css``."""
    light, dark = (" ".join(f"--{name}: {value};" for name, value in theme.items()) for theme in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"@media print {{ :root {{ color-scheme: light; {light} }} }}\n"
        f"{(Path(__file__).parent / 'style.css').read_text(encoding='utf-8')}"
    )


def policy(style: str) -> str:
    """Return a Content-Security-Policy under which a page has this style, and does and fetches nothing."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
