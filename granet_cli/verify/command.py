"""``granet verify``: the integrity of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from granet_cli import options

if TYPE_CHECKING:
    from granet.checkpoint import Verification
    from granet_cli.render import Screen


def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Checkpoints written by granet.", show_default=False)
    ],
    method: options.ConfirmedMethod = None,
    json: options.Json = False,
) -> None:
    """Check that checkpoints are complete and consistent.

    Every tensor is checked against its hash, masks against their counts, the active weights against the recipe, and
    all values for being finite. Each failure names the tensor. The exit code is 1 when any file fails.

    \b
    Examples:
      granet verify runs/a/last.safetensors
      granet verify runs/*/*.safetensors
      granet verify backup.safetensors --json | jq '.files[].failures'
    """
    from granet.methods import confirm
    from granet_cli.render import Screen, print_json

    if method is not None:
        confirm(method)
    results = []
    for file in files:
        results.append(_verified(file))
        if not json:  # each is shown as soon as it is known
            _show(Screen(), results[-1])
    if json:
        print_json({"ok": all(result.ok for result in results), "files": [result.as_json() for result in results]})
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _verified(file: Path) -> Verification:
    """Verify a file; one that cannot be read is a failure like any other."""
    from granet.checkpoint import Verification, VerificationFailure, verify
    from granet.errors import FileError

    try:
        return verify(file)
    except FileError as error:
        failure = VerificationFailure(part="file", message=str(error))
        return Verification(path=str(file), bytes=0, failures=(failure,))


def _show(screen: Screen, result: Verification) -> None:
    """Write a line about the file, and one for each failure."""
    from rich.text import Text

    from granet.errors import counted
    from granet_cli.render import FAINT, printable

    line = Text(f"{printable(result.path)}: ")
    if result.ok:
        line.append("sound", style="green")
        line.append(f", {result.tensors:,} tensors, step {result.step:,}")
        line.append(f", {result.active:,} of {result.parameters:,} weights active")
    else:
        line.append(counted(len(result.failures), "failure"), style="bold red")
    line.append("".join(f"; {note}" for note in result.notes), style=FAINT)
    screen.print(line)
    for failure in result.failures:
        screen.print(Text(f"  {printable(failure.message)}"))
