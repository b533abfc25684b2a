"""``granet inspect``: a look inside a checkpoint, or inside an ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options


def _complete_order(incomplete: str) -> list[str]:
    from granet_cli.layers import ONNX_ORDERS, ORDERS

    return [name for name in {**ORDERS, **ONNX_ORDERS} if name.startswith(incomplete)]


def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A checkpoint written by granet train, or any ONNX file.", show_default=False
        ),
    ],
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="order (of the network), name, parameters, active, density, flops (of a checkpoint) or bytes (in an "
            "ONNX file); numbers from the largest down.",
            autocompletion=_complete_order,
        ),
    ] = "order",
    layers: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only layers whose name matches, such as 'layer1.*' or '*conv2'."),
    ] = None,
    model: options.Confirmed = None,
    json: options.Json = False,
) -> None:
    """Look inside a checkpoint or an ONNX file.

    For a checkpoint it shows the run, its progress, and layer by layer what is active and what that costs. For an ONNX
    file of any program it shows which weights are not zero and how they are stored. A file is recognised by its
    content, not by its name.

    \b
    Columns:
      weights   that can be masked, and how many of them are active
      dead      inputs/outputs of the layer without an active weight
      FLOPs     the layer's share of the sparse network's inference FLOPs
      stored    how an ONNX file stores the weight, and its bytes there
    \b
    Examples:
      granet inspect runs/a/last.safetensors
      granet inspect runs/a/last.safetensors --sort density --layers 'layer3.*'
      granet inspect runs/a/last.safetensors --json | jq .density
      granet inspect sparse.onnx --sort bytes
    """
    from granet_cli.filetype import is_onnx

    if is_onnx(file):
        _inspect_onnx(file, sort=sort, layers=layers, model=model, json=json)
        return
    from granet.analysis import inspection
    from granet.checkpoint import load_outline
    from granet_cli.inspect.view import show
    from granet_cli.layers import select
    from granet_cli.overrides import check_network
    from granet_cli.render import Screen, print_json

    checkpoint = load_outline(file)
    check_network(checkpoint, model)
    report = inspection.inspect(checkpoint, factory=model)
    shown = select(report.layers, pattern=layers, order=sort)
    if json:
        print_json(replace(report, layers=shown).as_json())
    else:
        show(Screen(), file, report, shown)


def _inspect_onnx(file: Path, *, sort: str, layers: str | None, model: str | None, json: bool) -> None:
    from exporters import onnx_files
    from exporters.onnx_inspection import inspect as look
    from granet.errors import UsageError
    from granet_cli.inspect.onnx_view import show
    from granet_cli.layers import ONNX_ORDERS, select
    from granet_cli.render import Screen, print_json

    if model is not None:
        raise UsageError("an ONNX file names no code to confirm", where="--model", got=model)
    report = look(onnx_files.read(file))
    shown, stored = select(report.layers, pattern=layers, order=sort, keys=ONNX_ORDERS), onnx_files.size(file)
    if json:
        print_json({**replace(report, layers=shown).as_json(), "bytes": stored})
    else:
        show(Screen(), file, stored, report, shown)
