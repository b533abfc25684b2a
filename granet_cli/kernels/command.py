"""``granet kernels``: whether the library of sparse kernels is there, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from granet_cli import options
from granet_cli.options import option


def kernels(
    path: Annotated[bool, option("Print the path of the library and nothing else.", "--path")] = False,
    json: options.Json = False,
) -> None:
    """Show the library that runs sparse layers inside ONNX Runtime on a CPU.

    Any program that uses ONNX Runtime can register it, whatever its language: files from granet export --onnx are then
    faster the sparser they are, and run as before without it.

    \b
    Examples:
      granet kernels
      granet kernels --path
    \b
    In Python:
      session = granet.session("sparse.onnx")
    """
    from granet.errors import UsageError
    from granet.kernels import MISSING, library
    from granet_cli.render import Screen, print_json

    found = library.path()
    if json:
        print_json({"path": None if found is None else str(found), "missing": MISSING if found is None else None})
    elif found is None and path:
        raise UsageError(MISSING, remedy="install granet where a C++ compiler is")
    elif path:
        typer.echo(str(found))
    else:
        Screen().facts([("library", MISSING if found is None else str(found))], width=11)
