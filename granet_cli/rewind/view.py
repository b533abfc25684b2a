"""Tables of ``granet rewind``: the rounds as planned, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet_cli.render import ACCENT, FAINT, Screen, percent, printable, short, size
from granet_cli.tables import TableColumn, table

if TYPE_CHECKING:
    from granet.recipe import Recipe
    from granet.rewinding.preview import RoundPlan
    from granet.runs.events import RoundRow


def show_plan(screen: Screen, plans: Sequence[RoundPlan]) -> None:
    """Write the table of ``--dry-run`` and its totals."""
    columns: list[TableColumn[RoundPlan]] = [
        TableColumn("round", lambda plan: str(plan.round), right=True),
        TableColumn("density", lambda plan: f"{plan.density:.4f}", right=True),
        TableColumn("active", lambda plan: plan.active, right=True),
        TableColumn("steps", lambda plan: f"{plan.start:,} to {plan.start + plan.steps:,}", right=True),
        TableColumn("LR", lambda plan: f"{plan.first_learning_rate:.3g} to {plan.last_learning_rate:.3g}", right=True),
        TableColumn("FLOPs", lambda plan: short(plan.training_flops), right=True),
        TableColumn("disk", lambda plan: size(plan.bytes), right=True),
    ]
    screen.print(table(screen, columns, plans))
    steps, operations = sum(plan.steps for plan in plans), sum(plan.training_flops for plan in plans)
    total = f"{steps:,} steps, {short(operations)} FLOPs, {size(sum(plan.bytes for plan in plans))} on disk"
    screen.print(Text(f"in all {total}; nothing was written", style=FAINT))


def plan_as_json(recipe: Recipe, plans: Sequence[RoundPlan]) -> dict[str, Any]:
    """Return what ``--dry-run --json`` prints."""
    return {"rewind": recipe.as_dict()["rewind"], "rounds": [asdict(plan) for plan in plans]}


def show(screen: Screen, out: Path, rows: Sequence[RoundRow]) -> None:
    """Write a table of density and accuracy by round, and the next command."""
    columns: list[TableColumn[RoundRow]] = [
        TableColumn("round", lambda row: str(row.round), right=True),
        TableColumn("density", lambda row: f"{row.density:.4f}", right=True),
        TableColumn("active", lambda row: row.active, right=True),
        TableColumn("validation", lambda row: percent(row.validation_accuracy), right=True),
        TableColumn("test", lambda row: percent(row.test_accuracy), right=True),
        TableColumn("checkpoint", lambda row: size(row.bytes), right=True),
    ]
    screen.print()
    screen.print(table(screen, columns, rows))
    screen.print()
    best = out / rows[-1].folder / "best.safetensors" if len(rows) > 1 else out / "best.safetensors"
    screen.print(Text(f"  granet inspect {printable(best)}", style=ACCENT))


def as_json(out: Path, rows: Sequence[RoundRow]) -> dict[str, Any]:
    """Return what ``granet rewind --json`` prints."""
    return {"out": str(out), "rounds": [asdict(row) for row in rows]}
