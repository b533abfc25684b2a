"""The command ``granet report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from granet_cli import options
from granet_cli.options import option


def report(
    runs: options.Runs,
    out: Annotated[
        Path | None,
        option("The page to write, such as report.html.", "-o", "--out", metavar="FILE", show_default=False),
    ] = None,
    overwrite: Annotated[bool, option("Replace the file of -o if it is there.", "--overwrite")] = False,
    model: options.Confirmed = None,
    method: options.ConfirmedMethod = None,
    json: options.Json = False,
) -> None:
    """Write a report on runs as one self-contained HTML page.

    Accuracies, costs and sizes; curves of loss, accuracy, density and exploration; layers over time; settings, and
    which of them differ; the lineage of rewound runs. For a screen, a phone or paper, light or dark, without scripts
    and without the network.

    A run is shown completely or not at all: one that is damaged, written by a newer granet or not begun is named with
    its reason. A run that is still training is shown as of its newest checkpoint.

    \b
    Examples:
      granet report runs/a -o report.html
      granet report runs/granet-* runs/rigl-* -o report.html --overwrite
      granet report runs --json | jq '.runs[] | {path, state, test_accuracy}'
    """
    from granet.analysis import report as analysis
    from granet.errors import GranetError, UsageError, counted
    from granet.files import atomic
    from granet.methods import confirm
    from granet_cli.render import print_json, say, size
    from granet_cli.report.page import page

    if "" in runs:
        raise UsageError("the path is empty; write . for the working directory", where="RUN")
    if out is None and not json:
        raise UsageError("no output file", remedy="add -o report.html, or --json")
    if out is None and overwrite:
        raise UsageError("there is nothing to overwrite", where="--overwrite", remedy="name the page with -o")
    if out is not None:
        _check_page(out, overwrite=overwrite)
    if method is not None:
        confirm(method)
    found = analysis.report(runs, factory=model)
    for problem in (*found.problems, *found.remarks):
        say(problem.message)
    if not found.runs:
        raise GranetError("there is nothing to report", where=", ".join(runs), expected="folders of runs")
    if model is not None and all(run.summary.model != model for run in found.runs):
        raise UsageError("none of the runs has this network", where="--model", got=model)
    if out is not None:
        written = page(found).encode()
        atomic.write(out, written)
        say(f"{out}: {counted(len(found.runs), 'run')}, {size(len(written))}")
    if json:
        print_json(found.as_json())


def _check_page(out: Path, *, overwrite: bool) -> None:
    """Check that the page can be written, before runs are read."""
    from granet.errors import UsageError
    from granet_cli.targets import check_target

    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError("the page is HTML", where="-o", got=out, expected="a name that ends in .html")
    if out.is_dir():
        raise UsageError("a folder", where="-o", got=out, expected="the name of a file")
    check_target(out, overwrite=overwrite)
    if not out.absolute().parent.is_dir():
        raise UsageError("there is no such folder", where="-o", got=out.parent)
