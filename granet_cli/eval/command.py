"""``granet eval``: the accuracy of a checkpoint on a split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from granet_cli import names, options


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A checkpoint written by granet train, or NAME.onnx of granet export.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Another dataset with the same classes, or the present folder of the checkpoint's dataset; as for "
            "granet train. Images of a folder are resized to the network's size.",
            autocompletion=names.complete_data,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT",
            help="train, validation or test. Choose between networks on validation; report test.",
            autocompletion=names.complete_split,
        ),
    ] = "test",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 256,
    device: options.Device = "auto",
    model: options.Confirmed = None,
    follow_links: options.FollowLinks = False,
    json: options.Json = False,
) -> None:
    """Measure accuracy and loss of a checkpoint, or of an ONNX model that granet export wrote.

    An ONNX model runs in ONNX Runtime, on the CPU unless --device names another device.

    \b
    Examples:
      granet eval runs/a/best.safetensors
      granet eval runs/a/best.safetensors --split validation --json
      granet eval runs/a/best.safetensors --data ./more-photos
      granet eval sparse.onnx
    """
    from granet.errors import UnknownNameError
    from granet_cli.eval import scores
    from granet_cli.render import Screen, percent, print_json

    if split not in names.SPLITS:
        raise UnknownNameError("split", split, names.SPLITS, where="--split")
    evaluate_file = scores.onnx if file.suffix.lower() == ".onnx" else scores.checkpoint
    result = evaluate_file(
        file,
        data=data,
        split=split,
        batch_size=batch_size,
        device=device,
        model=model,
        follow_links=follow_links,
    )
    if json:
        print_json(asdict(result))
        return
    right = round(result.accuracy * result.examples)
    Screen().facts(
        [
            ("accuracy", f"{percent(result.accuracy)}  ({right:,} of {result.examples:,})"),
            ("loss", f"{result.loss:.4f}"),
            ("data", f"{result.data}, {split} split"),
        ]
    )
