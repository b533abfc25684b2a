"""The command line: its root, and the one place where errors become exit codes.

Nothing here imports torch, so that help, completion and mistakes in usage answer at once; commands import the
library when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from granet_cli import startup
from granet_cli.commands import (
    bench,
    compact,
    compare,
    diff,
    export,
    history,
    import_,
    inflate,
    inspect,
    plan,
    plasticity,
    rewind,
    train,
    verify,
)
from granet_cli.commands import eval as eval_command
from granet_cli.commands import list as list_command
from granet_cli.commands import report as report_command
from granet_cli.errors import report
from granet_cli.help import CONTEXT, Command, Group
from granet_cli.render import ReaderGone, silence

app = typer.Typer(cls=Group, context_settings=CONTEXT, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("train", cls=Command, context_settings=CONTEXT)(train.train)
app.command("rewind", cls=Command, context_settings=CONTEXT)(rewind.rewind)
app.command("plan", cls=Command, context_settings=CONTEXT)(plan.plan)
app.command("compare", cls=Command, context_settings=CONTEXT)(compare.compare)
app.command("inspect", cls=Command, context_settings=CONTEXT)(inspect.inspect)
app.command("history", cls=Command, context_settings=CONTEXT)(history.history)
app.command("plasticity", cls=Command, context_settings=CONTEXT)(plasticity.plasticity)
app.command("report", cls=Command, context_settings=CONTEXT)(report_command.report)
app.command("diff", cls=Command, context_settings=CONTEXT)(diff.diff)
app.command("eval", cls=Command, context_settings=CONTEXT)(eval_command.evaluate)
app.command("export", cls=Command, context_settings=CONTEXT)(export.export)
app.command("compact", cls=Command, context_settings=CONTEXT)(compact.compact)
app.command("inflate", cls=Command, context_settings=CONTEXT)(inflate.inflate)
app.command("bench", cls=bench.Command, context_settings=CONTEXT)(bench.bench)
app.command("import", cls=Command, context_settings=CONTEXT)(import_.import_weights)
app.command("verify", cls=Command, context_settings=CONTEXT)(verify.verify)
app.command("list", cls=Command, context_settings=CONTEXT)(list_command.list_names)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # which reads mail headers, and takes a tenth of the time of --help

        typer.echo(f"granet {version('granet')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train convolutional networks sparse from the start, and look inside them.

    \b
    Start here:
      granet train                                 two minutes on a CPU, with data that comes along
      granet inspect runs/quickstart-granet/best.safetensors
      granet list recipes                          the set-ups of the papers
      granet train --recipe cifar10-resnet50-granet --data ~/cifar10 --density 0.05
    """
    if context.invoked_subcommand not in (None, "train") and os.environ.get("WORLD_SIZE", "1") != "1":
        _refuse_ranks(str(context.invoked_subcommand))
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _refuse_ranks(command: str) -> None:
    from granet.errors import UsageError

    error = UsageError(
        "only training runs on several ranks",
        where=f"granet {command}",
        got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
        remedy="begin a rewind in one process and go on with it by torchrun -m granet_cli train --resume DIR"
        if command == "rewind"
        else "run this command without torchrun",
    )
    error.everywhere = True
    raise error


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line ``arguments`` (those of the process when None) and returns the exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  open to the very end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="granet", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as leaving:  # how the framework leaves after a completion
        code = leaving.code
    except (ReaderGone, BrokenPipeError):
        silence()
        code = 0
    except Exception as error:  # everything that is not ours to explain is a bug, and is told as one
        code = report(error)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point ``granet``."""
    startup.hurry()
    code = run()
    if code and os.environ.get("WORLD_SIZE", "1") != "1":
        # All is said and saved. What is left of torch.distributed may wait for a rank that is gone, for ever.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
