"""``granet diff``: two checkpoints of one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granet_cli import options


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one of the same network.", show_default=False)],
    model: options.Confirmed = None,
    json: options.Json = False,
) -> None:
    """Compare two checkpoints of one network: masks, weights, settings, accuracy and cost.

    \b
    Columns:
      IoU      weights active in both over those active in either: 1 is the same mask
      lost     active in A alone; grown: in B alone
      regrown  of those grown, the ones that A had had active at some time, too
      flipped  active in both, with the opposite sign
      change   norm of the difference of the weights over that of A's
    \b
    Examples:
      granet diff runs/a/step-00005000.safetensors runs/a/last.safetensors
      granet diff runs/seed-0/best.safetensors runs/seed-1/best.safetensors
      granet diff a.safetensors b.safetensors --json | jq .total.iou
    """
    from granet.analysis import checkpoint_diff
    from granet.checkpoint import load
    from granet.errors import UsageError
    from granet_cli.diff.view import show
    from granet_cli.render import Screen, print_json

    checkpoints = [(path, load(path)) for path in (first, second)]
    networks = dict.fromkeys(checkpoint.network.name for _, checkpoint in checkpoints)
    if model is not None and model not in networks:
        raise UsageError(
            "the checkpoints hold another network", where="--model", got=model, expected=" or ".join(networks)
        )
    sides = [
        checkpoint_diff.InspectedCheckpoint.of(checkpoint, path=str(path), bytes=path.stat().st_size, factory=model)
        for path, checkpoint in checkpoints
    ]
    found = checkpoint_diff.diff(*sides)
    print_json(found.as_json()) if json else show(Screen(), found)
