"""``granet eval``: how a checkpoint does on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from granet_cli import names, options


def evaluate(
    file: options.File,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Another dataset with the same classes, or where the checkpoint's dataset lies now; as for granet "
            "train. Images of a folder are brought to the network's size.",
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
    json: options.Json = False,
) -> None:
    """Measure accuracy and loss of a checkpoint.

    \b
    Examples:
      granet eval runs/a/best.safetensors
      granet eval runs/a/best.safetensors --split validation --json
      granet eval runs/a/best.safetensors --data ./more-photos
    """
    from granet.checkpoint import load
    from granet.errors import UnknownNameError
    from granet.training import open_data, resolve_device
    from granet.training.scoring import score
    from granet_cli.choices import check_network, evaluated_on
    from granet_cli.render import Screen, percent, print_json

    if split not in names.SPLITS:
        raise UnknownNameError("split", split, names.SPLITS, where="--split")
    place = resolve_device(device)
    checkpoint = load(file)
    check_network(checkpoint, model)
    dataset = open_data(evaluated_on(checkpoint, data))
    result = score(checkpoint, dataset, split, device=place, batch_size=batch_size, factory=model)
    if json:
        print_json(
            {"accuracy": result.accuracy, "loss": result.loss, "split": split, "examples": result.examples}
            | {"data": dataset.name, "step": checkpoint.step}
        )
        return
    screen = Screen()
    right = round(result.accuracy * result.examples)
    screen.print(f"accuracy  {percent(result.accuracy)}  ({right:,} of {result.examples:,})")
    screen.print(f"loss      {result.loss:.4f}")
    screen.print(f"data      {dataset.name}, {split} split")
