"""Help pages: options in titled groups, bold titles on a terminal, plain text in a pipe."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 96}
"""Settings of typer that all commands share."""


class Command(TyperCommand):
    """A command whose help groups its options by their ``rich_help_panel``; other options come last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        _write_options(self, ctx, formatter)


class CommandGroup(TyperGroup):
    """The root command, whose help lists the commands first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write commands and options."""
        rows = [(name, self.commands[name].get_short_help_str(formatter.width)) for name in self.list_commands(ctx)]
        with formatter.section(title("Commands")):
            formatter.write_dl(rows)
        _write_options(self, ctx, formatter)


def title(text: str) -> str:
    """Return ``text`` as a heading, bold on a terminal."""
    return typer.style(text, bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            groups.setdefault(parameter.rich_help_panel or default, []).append(record)
    for name in sorted(groups, key="Options".__eq__):
        with formatter.section(title(name)):
            formatter.write_dl(groups[name])
