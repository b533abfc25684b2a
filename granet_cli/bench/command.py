"""``granet bench``: how fast models run, next to their dense twins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from granet_cli import help, options

if TYPE_CHECKING:
    from exporters.bench.report import BenchReport

_WHAT, _WHERE, _HOW = "What to measure", "Where it runs", "How it is measured"
STDOUT = "-"
ENCODINGS = "dense,bitmask,gaps8,gaps4,compact"


class BenchCommand(help.Command):
    """A command whose ``--json`` may be followed by a file, which no option of the framework can."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the command line after ``--json`` has been given the value that it stands for."""
        return super().parse_args(ctx, spelled_out(args))


def spelled_out(arguments: list[str]) -> list[str]:
    """``--json FILE.json`` as it is, and a ``--json`` before anything else as ``--json -``.

    Only a word that ends in .json is taken for the file, so that no model is: ``--json a.onnx`` prints. Any name goes
    as ``--json=FILE``.
    """
    result: list[str] = []
    for number, word in enumerate(arguments):
        if word == "--":
            return [*result, *arguments[number:]]
        result.append(word)
        following = arguments[number + 1] if number + 1 < len(arguments) else ""
        if word == "--json" and (following.startswith("-") or not following.lower().endswith(".json")):
            result.append(STDOUT)
    return result


def _numbers(option: str, text: str, separator: str) -> tuple[int, ...]:
    parts = text.split(separator)
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as {separator.join(('3', '224', '224'))}", param_hint=option
        )
    return tuple(int(part) for part in parts)


def _complete_provider(incomplete: str) -> list[str]:
    return [name for name in ("auto", "cpu", "cuda", "tensorrt") if name.startswith(incomplete)]


def bench(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="ONNX files, from granet export or anybody.", show_default=False),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare all with this ONNX file. Else each has its dense twin: NAME.dense.onnx beside it, or what "
            "inflating it gives; a single file of plain weights is compared with itself.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    torch: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Measure this checkpoint in torch too: eager, channels_last, compiled, 2:4 where it fits.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Export the checkpoints of the run in DIR, or of the runs in its folders, in every encoding into "
            "DIR/bench, and measure those.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    encodings: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"Encodings of --suite, and compact for removed channels.  [default: {ENCODINGS}]",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    model: options.Confirmed = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda or tensorrt, which has to run every node; auto takes cuda or cpu, and says which.",
            rich_help_panel=_WHERE,
            autocompletion=_complete_provider,
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="What fp32 in a file is computed in: fp32, tf32 (cuda, tensorrt), fp16 (tensorrt).  [default: fp32]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads on the CPU.  [default: its cores]", rich_help_panel=_WHERE),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="An option of ONNX Runtime's provider, such as prefer_nhwc=1. Can be repeated.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    cuda_graph: Annotated[
        bool,
        typer.Option(
            "--cuda-graph/--no-cuda-graph",
            help="Replay runs from CUDA graphs if all models can.",
            rich_help_panel=_WHERE,
        ),
    ] = True,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep TensorRT's engines here.  [default: ~/.cache/granet/tensorrt]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="LIST", help="Images at a time, such as 1,32,128.", rich_help_panel=_HOW)
    ] = "1",
    shape: Annotated[
        str | None,
        typer.Option(metavar="CxHxW", help="Size of an image, where the file leaves it open.", rich_help_panel=_HOW),
    ] = None,
    with_copies: Annotated[
        bool,
        typer.Option(
            "--with-copies", help="Time from and to NumPy arrays, not on the device alone.", rich_help_panel=_HOW
        ),
    ] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="For each batch size and precision; --processes may take longer.",
            rich_help_panel=_HOW,
        ),
    ] = 60.0,
    width: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Stop before when ratios are known this well.", rich_help_panel=_HOW),
    ] = 0.01,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N", help="Fresh processes of each model, at least, whatever the time.", rich_help_panel=_HOW
        ),
    ] = 5,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the order of turns.", rich_help_panel=_HOW)] = 0,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE.json]",
            help="Print JSON, and nothing else, on standard output; or write it to a file, beside the table.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw ratios and rates: .svg, .png or .pdf.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --json and --plot.")] = False,
) -> None:
    """Measure how fast models run, each against its dense twin.

    Models are in fresh processes that take turns; the ratio to the control comes with an interval that holds it 99
    times in 100. No node runs elsewhere than on the provider that was asked for. docs/benchmarking.md says how.

    \b
    Examples:
      granet bench sparse.onnx
      granet bench sparse.onnx --provider cuda --batch 1,32,128 --json out.json
      granet bench compact.onnx sparse.onnx --control dense.onnx --provider tensorrt --precision fp16
      granet bench sparse.onnx --torch runs/a/best.safetensors --plot speed.svg
      granet bench --suite runs/a --json | jq '.results[] | [.model, .ratio]'
    """
    from exporters.bench import providers

    providers.check_packages()  # before anything that would not even import without one
    from exporters.bench.runner import measure
    from exporters.bench.settings import BenchSettings, cache_folder
    from granet.errors import BenchmarkError, UsageError
    from granet_cli.bench.plot import draw
    from granet_cli.bench.view import show
    from granet_cli.pictures import check_plot
    from granet_cli.render import Screen, print_json, say
    from granet_cli.targets import check_target

    models = list(files or [])
    target = Path(json) if json not in (None, STDOUT) else None
    sources = [path for path in (*models, control, torch) if path is not None]
    for given, flag, needed in (
        (encodings, "--encodings", suite),
        (model, "--model", suite or torch),
        (overwrite, "--overwrite", target or plot),
    ):
        if given and not needed:
            raise UsageError("there is nothing here that it is about", where=flag)
    for path in models:
        if path.suffix == ".safetensors":
            remedy = f"--torch {path} measures it, granet export --onnx makes a model of it"
            raise UsageError("a checkpoint is no ONNX file", where=path, remedy=remedy)
    for out, flag in ((target, "--json"), (plot, "--plot")):
        if out is not None and not out.absolute().parent.is_dir():
            raise UsageError("there is no such folder", where=flag, got=out.parent)
    if target is not None:
        check_target(target, *sources, overwrite=overwrite)
    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    extra = {}
    for pair in option or []:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--option")
        extra[key] = value
    more: dict[str, Any] = {} if threads is None else {"threads": threads}
    settings = BenchSettings(
        provider=provider,
        batches=_numbers("--batch", batch, ","),
        precisions=tuple(precision.split(",")) if precision else (),
        shape=_numbers("--shape", shape, "x") if shape else (),
        with_copies=with_copies,
        cuda_graph=cuda_graph,
        time_limit=time_limit,
        processes=processes,
        width=width,
        options=extra,
        cache=cache or cache_folder(),
        seed=seed,
        **more,
    )
    exported = None
    if suite is not None:
        from exporters.bench.suite import export_suite

        exported = export_suite(suite, tuple((encodings or ENCODINGS).split(",")), confirmed=model, say=say)
        models += exported.models
        control = control or exported.control
    skipped = exported.skipped if exported else []
    report = measure(models, settings, control=control, checkpoint=torch, confirmed=model, say=say)
    report.skipped += skipped
    if target is not None:
        _write(target, report)
    if plot is not None and report.results:
        draw(plot, report)
    if json == STDOUT:
        print_json(report.as_json())
    else:
        show(Screen(), report)
    if report.interrupted:
        say("interrupted: this is what was measured until then")
        raise typer.Exit(130)
    if not report.results:
        raise BenchmarkError("nothing could be measured", got=report.failures[0].error if report.failures else None)


def _write(target: Path, report: BenchReport) -> None:
    """The JSON, as a file that is there whole or not at all."""
    from json import dumps

    from granet.files import atomic

    atomic.write(target, (dumps(report.as_json(), indent=2, allow_nan=False) + "\n").encode())
