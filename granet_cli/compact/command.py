"""``granet compact``: a checkpoint as a smaller plain network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from granet_cli import options
from granet_cli.options import option

if TYPE_CHECKING:
    from exporters.compaction import Compacted, LayerChange
    from granet_cli.render import Screen


def compact(
    file: options.File,
    out: Annotated[Path, option("The file to write.", "-o", "--out", metavar="OUT", show_default=False)],
    model: options.Confirmed = None,
    overwrite: options.Replace = False,
    json: options.Json = False,
) -> None:
    """Remove dead channels; the smaller network computes the same outputs.

    A channel goes when every weight that reads it is zero, or when it is constant and its readers can add that to
    their bias. The outputs stay the same, which is checked; layers become smaller and faster on any device. OUT is
    plain safetensors with the names of the network and smaller shapes.

    \b
    Examples:
      granet compact runs/a/best.safetensors -o small.safetensors
      granet compact runs/a/best.safetensors -o small.safetensors --json | jq .flops
    \b
    In PyTorch:
      model = exporters.compaction.load("small.safetensors")
    """
    import torch

    from exporters import compaction
    from granet.checkpoint import load
    from granet.models import from_checkpoint
    from granet_cli.overrides import check_network
    from granet_cli.render import Screen, print_json
    from granet_cli.targets import check_target

    check_target(out, file, overwrite=overwrite)
    checkpoint = load(file)
    check_network(checkpoint, model)
    network = checkpoint.network
    # Two images, so that no size is 1 by chance.
    example = torch.zeros(2, network.in_channels, network.image_size, network.image_size)
    compacted = compaction.compact(from_checkpoint(checkpoint, factory=model), (example,))
    compaction.write(out, compacted.model, network)
    if json:
        print_json({"out": str(out), "bytes": out.stat().st_size, **compacted.as_json()})
        return
    _show(Screen(), out, compacted)


def _show(screen: Screen, out: Path, compacted: Compacted) -> None:
    """Write totals, a table of the layers that became smaller, and notes on what stays."""
    from rich.text import Text

    from granet_cli.layers import stem
    from granet_cli.render import FAINT, short, size
    from granet_cli.tables import TableColumn, table

    screen.heading(out, size(out.stat().st_size))
    outputs = sum(layer.outputs for layer in compacted.layers)
    facts = [("channels", f"{compacted.removed:,} of {outputs:,} removed" if compacted.removed else "none to remove")]
    if compacted.removed:
        before, after = compacted.parameters_before, compacted.parameters_after
        facts.append(("weights", f"{before:,} -> {after:,}, {after / before:.1%}"))
        if compacted.flops_before and compacted.flops_after is not None:
            share = compacted.flops_after / compacted.flops_before
            change = f"{short(compacted.flops_before)} -> {short(compacted.flops_after)}"
            facts.append(("FLOPs", f"{change} an image when dense, {share:.1%}"))
        facts.append(("outputs", f"differ by {compacted.difference:.0e} of the largest, which is rounding"))
    screen.facts(facts)
    if changed := [layer for layer in compacted.layers if layer.changed]:
        columns: list[TableColumn[LayerChange]] = [
            TableColumn("layer", lambda layer: stem(layer.name)),
            TableColumn("inputs", lambda layer: _change(layer.inputs, layer.inputs_kept), right=True),
            TableColumn("outputs", lambda layer: _change(layer.outputs, layer.outputs_kept), right=True),
            TableColumn("weights", lambda layer: f"{layer.parameters_kept / layer.parameters:.1%}", right=True),
            TableColumn("FLOPs", _flops_kept, right=True),
        ]
        screen.print()
        screen.print(table(screen, columns, changed))
        screen.print(Text(f"{len(changed)} of {len(compacted.layers)} layers became smaller", style=FAINT))
    screen.notes(compacted.notes)


def _flops_kept(layer: LayerChange) -> str | None:
    return f"{layer.flops_kept / layer.flops:.1%}" if layer.flops and layer.flops_kept is not None else None


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
