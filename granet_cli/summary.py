"""Summary of a finished run, in a few lines and as JSON."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.render import ACCENT, FAINT, Screen, percent, printable, size

if TYPE_CHECKING:
    from granet.analysis.inspection import Inspection
    from granet.training import RunFolder


def as_json(folder: RunFolder, end: Inspection) -> dict[str, Any]:
    """Return what ``granet train --json`` prints."""
    return {
        "out": str(folder.path),
        "recipe": end.recipe,
        "method": end.method,
        "model": end.model,
        "data": end.data,
        "seed": end.seed,
        "step": end.step,
        "epochs": end.epochs,
        "parameters": end.parameters,
        "active": end.active,
        "density": end.density,
        "exploration": end.exploration,
        "flops": end.flops,
        "best": end.metrics["best"],
        "test": end.metrics["test"],
        "files": {
            "last": str(folder.last),
            "best": str(folder.best),
            "recipe": str(folder.recipe_file),
            "metrics": str(folder.metrics_file),
        },
    }


def show(screen: Screen, folder: RunFolder, end: Inspection) -> None:
    """Write scores, density, files, and the next commands."""
    best, test = end.metrics["best"], end.metrics["test"]
    facts = [
        ("test accuracy", f"{percent(test['accuracy'])} of {test['examples']:,} images"),
        ("best epoch", f"{best['epoch']} of {end.epochs}, validation accuracy {percent(best['accuracy'])}"),
        ("density", f"{end.density:.4f}: {end.active:,} of {end.parameters:,} maskable weights"),
        ("explored", f"{percent(end.exploration)} of them were active at some time"),
    ]
    if end.flops is not None and end.flops["dense"]:
        facts.append(("inference", f"{end.flops['active'] / end.flops['dense']:.1%} of the dense network's FLOPs"))
    screen.print()
    screen.facts(facts, width=15)
    screen.print()
    screen.print(Text(printable(folder.path), style="bold"))
    for path, what in (
        (folder.best, "the best epoch"),
        (folder.last, "the last step; --resume continues from here"),
        (folder.recipe_file, "every setting"),
        (folder.metrics_file, "every epoch and update"),
    ):
        if path.exists():  # files of an old run may have been deleted
            line = Text(f"  {path.name:<18}{size(path.stat().st_size):>10}")
            screen.print(line.append(f"  {what}", style=FAINT))
    screen.print()
    best_file = shlex.quote(str(folder.best))
    for command in ("inspect {}", "eval {}", "export --safetensors {} -o model.safetensors"):
        screen.print(Text(f"  granet {printable(command.format(best_file))}", style=ACCENT))
