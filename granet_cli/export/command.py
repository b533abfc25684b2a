"""``granet export``: a checkpoint for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from granet_cli import names, options
from granet_cli.options import option

_FORMAT, _ONNX = "Format", "ONNX"


def export(
    file: options.File,
    out: Annotated[Path, option("The file to write.", "-o", "--out", metavar="OUT", show_default=False)],
    onnx: Annotated[bool, option("A compact ONNX model that ONNX Runtime opens.", "--onnx", panel=_FORMAT)] = False,
    safetensors: Annotated[
        bool, option("Plain safetensors: weights and buffers in their full shapes.", "--safetensors", panel=_FORMAT)
    ] = False,
    encoding: Annotated[
        str | None,
        option(
            "How positions of weights are stored: gaps8, gaps4, bitmask, dense, coo (the standard's sparse "
            "initializer), or auto, the smallest for each tensor.  [default: auto]",
            metavar="NAME",
            panel=_ONNX,
            complete=names.complete_encoding,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        option(
            "Of the stored values: fp32, fp16, or int8 with a scale for each channel.  [default: fp32, or "
            "fp16 with --compute fp16]",
            metavar="FORMAT",
            panel=_ONNX,
            complete=names.complete_value_precision,
        ),
    ] = None,
    compute: Annotated[
        str | None,
        option(
            "That the model computes in: fp32 or fp16; inputs and outputs stay fp32.  [default: fp32]",
            metavar="FORMAT",
            panel=_ONNX,
            complete=names.complete_compute,
        ),
    ] = None,
    kernels: Annotated[
        bool | None,
        option(
            "Group sparse layers into islands that granet's kernels for CPUs run; any other ONNX Runtime runs them as "
            "before.  [default: --kernels]",
            "--kernels/--no-kernels",
            panel=_ONNX,
            show_default=False,
        ),
    ] = None,
    compact: Annotated[bool, option("Remove channels that cannot matter, exactly.", "--compact", panel=_ONNX)] = False,
    twin: Annotated[
        bool,
        option(
            "Write the dense twin too, the same graph with plain weights, as NAME.dense.onnx.", "--twin", panel=_ONNX
        ),
    ] = False,
    opset: Annotated[
        int | None, option("Version of the standard operators.  [default: torch's choice]", metavar="N", panel=_ONNX)
    ] = None,
    example: Annotated[
        str | None,
        option(
            "package.module:factory of a tuple of example inputs, for a network of your own with several "
            "inputs or outputs. Its code is run.",
            metavar="NAME",
            panel=_ONNX,
        ),
    ] = None,
    data: Annotated[
        str | None,
        option(
            "Images to compare with torch on, as for granet eval.  [default: the checkpoint's, where they are]",
            metavar="NAME|DIR",
            panel=_ONNX,
            complete=names.complete_data,
        ),
    ] = None,
    model: options.Confirmed = None,
    overwrite: options.Replace = False,
    json: options.Json = False,
) -> None:
    """Write the weights of a checkpoint as a file that other tools read.

    An ONNX model is compared with the torch network before it appears: on random inputs and on images, in ONNX
    Runtime, and bit for bit with its dense twin. Where it came from and how it was proved stands in its metadata.

    \b
    Examples:
      granet export --onnx runs/a/best.safetensors -o sparse.onnx
      granet export --onnx runs/a/best.safetensors -o sparse.onnx --precision fp16 --compact --twin
      granet export --onnx mine.safetensors -o mine.onnx --model nets:two_inputs --example nets:example
      granet export --safetensors runs/a/best.safetensors -o model.safetensors
    \b
    In PyTorch:
      model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    """
    from granet.errors import UsageError

    if onnx == safetensors:
        what = "choose one format" if onnx else "no format was chosen"
        raise UsageError(what, remedy="add --onnx or --safetensors, not both")
    wanted = {
        "encoding": encoding,
        "precision": precision,
        "compute": compute,
        "kernels": kernels,
        "compact": compact or None,
        "twin": twin or None,
        "opset": opset,
        "example": example,
        "data": data,
        "model": model,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if safetensors:
        if given:
            raise UsageError("plain safetensors have no such option", where=f"--{next(iter(given))}")
        _write_safetensors(file, out, overwrite=overwrite, json=json)
    else:
        asked = {name: value for name, value in given.items() if name not in ("example", "data", "model")}
        _write_onnx(file, out, asked, example=example, data=data, model=model, overwrite=overwrite, json=json)


def _write_safetensors(file: Path, out: Path, *, overwrite: bool, json: bool) -> None:
    from exporters.dense import write_dense
    from granet.checkpoint import load
    from granet.masks.mapping import density
    from granet_cli.render import print_json, printable, size
    from granet_cli.targets import check_target

    check_target(out, file, overwrite=overwrite)
    checkpoint = load(file)
    write_dense(checkpoint, out)
    written = out.stat().st_size
    if json:
        tensors = len(checkpoint.weights) + len(checkpoint.buffers)
        print_json({"out": str(out), "format": "safetensors", "tensors": tensors, "bytes": written})
        return
    typer.echo(printable(f"{out}: {size(written)}, density {density(checkpoint.masks):.4f}, zeros included"))


def _write_onnx(
    file: Path,
    out: Path,
    asked: dict[str, Any],
    *,
    example: str | None,
    data: str | None,
    model: str | None,
    overwrite: bool,
    json: bool,
) -> None:
    from exporters.onnx_export import ExportSettings, export, twin_of
    from granet.checkpoint import load
    from granet_cli import render
    from granet_cli.export import view as exporting
    from granet_cli.overrides import check_network
    from granet_cli.targets import check_target

    if asked.get("compute") == "fp16":
        asked.setdefault("precision", "fp16")
    settings = ExportSettings(**asked)
    for target in (out, twin_of(out)) if settings.twin else (out,):
        check_target(target, file, overwrite=overwrite)
    checkpoint = load(file)
    check_network(checkpoint, model)
    report = export(
        checkpoint,
        out,
        settings,
        factory=model,
        example=example,
        images=lambda: exporting.find_images(checkpoint, data),
        progress=exporting.progress(),
    )
    for remark in report.remarks:
        render.say(f"note: {remark}")
    render.print_json(exporting.as_json(report)) if json else exporting.show(render.Screen(), report)
