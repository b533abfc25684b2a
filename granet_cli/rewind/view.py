"""The tables of ``granet rewind``: the plan of its rounds, and what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.render import ACCENT, FAINT, Column, Screen, percent, printable, short, size, table

if TYPE_CHECKING:
    from granet.recipe import Recipe
    from granet.rewinding.preview import RoundPlan
    from granet.runs.events import RoundRow

_PLANNED = tuple(Column(title, right=True) for title in ("round", "density", "active", "steps", "LR", "FLOPs", "disk"))
_DONE = tuple(Column(title, right=True) for title in ("round", "density", "active", "validation", "test", "checkpoint"))


def show_plan(screen: Screen, plans: Sequence[RoundPlan]) -> None:
    """The table of ``--dry-run`` and its totals."""
    rows: list[list[str | Text]] = [
        [
            str(plan.round),
            f"{plan.density:.4f}",
            f"{plan.active:,}",
            f"{plan.start:,} to {plan.start + plan.steps:,}",
            f"{plan.first_learning_rate:.3g} to {plan.last_learning_rate:.3g}",
            short(plan.training_flops),
            size(plan.bytes),
        ]
        for plan in plans
    ]
    screen.print(table(_PLANNED, rows, width=screen.columns))
    steps, operations = sum(plan.steps for plan in plans), sum(plan.training_flops for plan in plans)
    total = f"{steps:,} steps, {short(operations)} FLOPs, {size(sum(plan.bytes for plan in plans))} on disk"
    screen.print(Text(f"in all {total}; nothing was written", style=FAINT))


def plan_as_json(recipe: Recipe, plans: Sequence[RoundPlan]) -> dict[str, Any]:
    """The same for ``--json``."""
    return {"rewind": recipe.as_dict()["rewind"], "rounds": [asdict(plan) for plan in plans]}


def show(screen: Screen, out: Path, rows: Sequence[RoundRow]) -> None:
    """The table of density against accuracy, and what to do next."""
    cells: list[list[str | Text]] = [
        [
            str(row.round),
            f"{row.density:.4f}",
            f"{row.active:,}",
            percent(row.validation_accuracy),
            percent(row.test_accuracy),
            size(row.bytes),
        ]
        for row in rows
    ]
    screen.print()
    screen.print(table(_DONE, cells, width=screen.columns))
    screen.print()
    best = out / rows[-1].folder / "best.safetensors" if len(rows) > 1 else out / "best.safetensors"
    screen.print(Text(f"  granet inspect {printable(best)}", style=ACCENT))


def as_json(out: Path, rows: Sequence[RoundRow]) -> dict[str, Any]:
    """What ``granet rewind --json`` prints."""
    return {"out": str(out), "rounds": [asdict(row) for row in rows]}
