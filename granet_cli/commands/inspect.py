"""``granet inspect``: a look inside a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from granet_cli import options


def _complete_order(incomplete: str) -> list[str]:
    from granet_cli.layers import ORDERS

    return [name for name in ORDERS if name.startswith(incomplete)]


def inspect(
    file: options.File,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="order (of the network), name, parameters, active, density or flops; numbers from the largest down.",
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
    """Look inside a checkpoint.

    It shows what made it, where it stands, and layer by layer what is active and what that costs.

    \b
    Columns:
      weights   that can be masked, and how many of them are active
      dead      inputs/outputs of the layer without an active weight
      FLOPs     the layer's share of the sparse network's inference FLOPs
    \b
    Examples:
      granet inspect runs/a/last.safetensors
      granet inspect runs/a/last.safetensors --sort density --layers 'layer3.*'
      granet inspect runs/a/last.safetensors --json | jq .density
    """
    from granet.analysis import inspection
    from granet.checkpoint import load_outline
    from granet_cli.choices import check_network
    from granet_cli.inspection import show
    from granet_cli.layers import select
    from granet_cli.render import Screen, print_json

    checkpoint = load_outline(file)
    check_network(checkpoint, model)
    report = inspection.inspect(checkpoint, factory=model)
    shown = select(report.layers, pattern=layers, order=sort)
    if json:
        chosen = {layer.name: layer for layer in shown}
        whole = report.as_json()
        by_name = {layer["name"]: layer for layer in whole["layers"]}
        print_json({**whole, "layers": [by_name[name] for name in chosen]})
        return
    show(Screen(), file, report, shown)
