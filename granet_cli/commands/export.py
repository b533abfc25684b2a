"""``granet export``: a checkpoint for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options


def export(
    file: options.File,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="The file to write.", show_default=False)],
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Plain safetensors: weights and buffers in their full shapes.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    json: options.Json = False,
) -> None:
    """Write the weights of a checkpoint as a file that other tools read.

    \b
    Examples:
      granet export --safetensors runs/a/best.safetensors -o model.safetensors
    \b
    In PyTorch:
      model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    """
    from exporters.dense import write_dense
    from granet.checkpoint import load
    from granet.errors import UsageError
    from granet.masks import density
    from granet_cli.render import print_json, printable, size
    from granet_cli.targets import check_target

    if not safetensors:
        raise UsageError("no format was chosen", remedy="add --safetensors")
    check_target(out, file, overwrite=overwrite)
    checkpoint = load(file)
    write_dense(checkpoint, out)
    written = out.stat().st_size
    if json:
        tensors = len(checkpoint.weights) + len(checkpoint.buffers)
        print_json({"out": str(out), "format": "safetensors", "tensors": tensors, "bytes": written})
        return
    typer.echo(printable(f"{out}: {size(written)}, density {density(checkpoint.masks):.4f}, zeros included"))
