"""Error reporting: from an exception to a message on standard error and an exit code.

0    done, also when a reader such as ``head`` has seen enough
1    the work failed, the system refused something, or granet failed: a bug is reported in one line, with its
     traceback when GRANET_DEBUG=1
2    wrong usage
130  interrupted
"""

from __future__ import annotations

import os
import sys
import traceback

import typer
from rich.text import Text

from granet_cli.render import Screen, printable


def report(error: Exception) -> int:
    """Write what went wrong to standard error and return the exit code."""
    message, code = _explain(error)
    rank = _rank()
    if rank is not None and _is_everywhere(error):
        if rank != 0:  # all ranks would write the same message
            return code
    elif rank is not None:
        message = f"rank {rank}: {message}"
    screen = Screen(stderr=True)
    screen.prose(Text("error: ", style="bold red").append(printable(message), style="not bold default"))
    return code


def _rank() -> int | None:
    """Return the rank of this process among several that torchrun started; None for a single process."""
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    return int(rank) if size.isdecimal() and int(size) > 1 and rank.isdecimal() else None


def _is_everywhere(error: Exception) -> bool:
    """Return whether all ranks raise this error: mistakes in their common command, and errors marked so."""
    return isinstance(error, typer.TyperException) or bool(getattr(error, "everywhere", False))


def _explain(error: Exception) -> tuple[str, int]:
    ours = sys.modules.get("granet.errors")  # not imported yet: then the error is not one of these either
    if ours is not None and isinstance(error, ours.GranetError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage(error), error.exit_code
    if os.environ.get("GRANET_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:  # a full disk or a read-only folder is no bug
        return f"{error.filename}: {error.strerror}" if error.filename else f"the system refused: {error.strerror}", 1
    what = "".join(traceback.format_exception_only(error)).strip()
    if type(error).__name__ == "OutOfMemoryError":
        return f"the device has too little memory: {what}\nuse a smaller --batch-size, or --precision bf16", 1
    if isinstance(error, MemoryError) or "can't allocate memory" in what:  # the second is torch's, on a CPU
        return f"there is too little memory: {what}\nuse a smaller --batch-size, or --set data.residency=streaming", 1
    if line := _users_line(error):
        return f"code of yours failed: {what}\nin {line}; GRANET_DEBUG=1 adds the calls that led there", 1
    return f"unexpected {what}\nthis is a bug in granet: please report it, with what GRANET_DEBUG=1 adds to this", 1


def _users_line(error: Exception) -> str | None:
    """Return file, line and function of the user's code that raised it, None where none was running."""
    user_code = sys.modules.get("granet.files.user_code")  # not imported yet: then no such code was either
    line: str | None = None if user_code is None else user_code.line_of(error)
    return line


def _usage(error: typer.TyperException) -> str:
    """Describe a mistake in the command line, with the nearest option and where to find help."""
    message = error.format_message()
    possibilities = getattr(error, "possibilities", None)
    if possibilities:
        message = f"{error.message}. Did you mean {possibilities[0]}?"
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message}\nhelp: {context.command_path} --help"
