"""The command line: its root, and the one place where errors become exit codes.

Nothing here imports torch, so that help, completion and mistakes in usage answer at once; commands import the
library when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from granet_cli import startup
from granet_cli.bench.command import BenchCommand, bench
from granet_cli.compact.command import compact
from granet_cli.compare.command import compare
from granet_cli.diff.command import diff
from granet_cli.errors import report as report_error
from granet_cli.eval.command import evaluate
from granet_cli.export.command import export
from granet_cli.help import CONTEXT, Command, CommandGroup
from granet_cli.history.command import history
from granet_cli.import_.command import import_weights
from granet_cli.inflate.command import inflate
from granet_cli.inspect.command import inspect
from granet_cli.kernels.command import kernels
from granet_cli.list.command import list_names
from granet_cli.plan.command import plan
from granet_cli.plasticity.command import plasticity
from granet_cli.render import ReaderGone, silence
from granet_cli.report.command import report
from granet_cli.rewind.command import rewind
from granet_cli.train.command import train
from granet_cli.verify.command import verify

app = typer.Typer(cls=CommandGroup, context_settings=CONTEXT, rich_markup_mode=None, pretty_exceptions_enable=False)

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "rewind": rewind,
    "plan": plan,
    "compare": compare,
    "inspect": inspect,
    "history": history,
    "plasticity": plasticity,
    "report": report,
    "diff": diff,
    "eval": evaluate,
    "export": export,
    "compact": compact,
    "inflate": inflate,
    "bench": bench,
    "kernels": kernels,
    "import": import_weights,
    "verify": verify,
    "list": list_names,
}
"""In the order in which ``granet --help`` lists them."""

for _name, _function in COMMANDS.items():
    app.command(_name, cls=BenchCommand if _name == "bench" else Command, context_settings=CONTEXT)(_function)


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
        code = report_error(error)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point ``granet``."""
    startup.defer_garbage_collection()
    code = run()
    if code and os.environ.get("WORLD_SIZE", "1") != "1":
        # All is said and saved. What is left of torch.distributed may wait for a rank that is gone, for ever.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
