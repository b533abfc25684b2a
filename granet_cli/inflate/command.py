"""``granet inflate``: an ONNX file with plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options
from granet_cli.options import option


def inflate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file.", show_default=False)],
    out: Annotated[Path, option("The ONNX file to write.", "-o", "--out", metavar="OUT", show_default=False)],
    overwrite: options.Replace = False,
    json: options.Json = False,
) -> None:
    """Write an ONNX file with plain weights instead of encoded ones.

    For tools that want to see weights: quantisers, converters, simplifiers. The weights are those that ONNX Runtime
    decodes, bit by bit, and everything else is kept. Sparse initializers and constants of the standard, whoever wrote
    them, become plain too.

    \b
    Examples:
      granet inflate sparse.onnx -o dense.onnx
      granet inflate sparse.onnx -o dense.onnx --overwrite --json
    """
    from exporters import onnx_files
    from exporters.encoding import inflate_with_names
    from granet.errors import counted
    from granet_cli.render import print_json, printable, size
    from granet_cli.targets import check_target

    check_target(out, file, overwrite=overwrite)
    inflated = inflate_with_names(onnx_files.read(file))
    onnx_files.write(out, inflated.model)
    before, after = onnx_files.size(file), onnx_files.size(out)
    if json:
        print_json({"out": str(out), "bytes": after, "source_bytes": before, "tensors": list(inflated.tensors)})
        return
    count = len(inflated.tensors)
    what = (
        f"{counted(count, 'encoded tensor')} became plain"
        if count
        else "nothing to inflate: no weight is encoded by granet, or sparse"
    )
    typer.echo(printable(f"{out}: {size(after)}, from {size(before)}; {what}"))
