"""``granet bench``: how fast models run, next to their dense twins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from granet_cli import help, options
from granet_cli.options import option, parse_numbers

_WHAT, _WHERE, _HOW = "What to measure", "Where it runs", "How it is measured"
STDOUT = "-"
ENCODINGS = "dense,bitmask,gaps8,gaps4,compact"


class BenchCommand(help.Command):
    """A command whose ``--json`` may be followed by a file or not; options of typer always or never are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line once every ``--json`` has a value."""
        return super().parse_args(ctx, complete_json(args))


def complete_json(arguments: list[str]) -> list[str]:
    """Return the arguments with ``-``, standard output, after every ``--json`` that no file follows.

    Only a word that ends in .json is taken for the file, so that no model is: ``--json a.onnx`` prints. A file of any
    name can be given as ``--json=FILE``.
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


def _complete_provider(incomplete: str) -> list[str]:
    return [name for name in ("auto", "cpu", "cuda", "tensorrt") if name.startswith(incomplete)]


_Models = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE...]", help="ONNX files, from granet export or anybody.", show_default=False),
]
_Control = Annotated[
    Path | None,
    option(
        "Compare all with this ONNX file. Else each has its dense twin: NAME.dense.onnx beside it, or what inflating "
        "it gives; a single file of plain weights is compared with itself.",
        metavar="FILE",
        panel=_WHAT,
    ),
]
_Torch = Annotated[
    Path | None,
    option(
        "Measure this checkpoint in torch too: eager, channels_last, compiled, 2:4 where it fits.",
        metavar="CHECKPOINT",
        panel=_WHAT,
    ),
]
_Suite = Annotated[
    Path | None,
    option(
        "Export the checkpoints of the run in DIR, or of the runs in its folders, in every encoding into DIR/bench, "
        "and measure those.",
        metavar="DIR",
        panel=_WHAT,
    ),
]
_Encodings = Annotated[
    str | None,
    option(
        f"Encodings of --suite, and compact for removed channels.  [default: {ENCODINGS}]", metavar="LIST", panel=_WHAT
    ),
]
_Provider = Annotated[
    str,
    option(
        "cpu, cuda or tensorrt, which has to run every node; auto takes cuda or cpu, and says which.",
        metavar="NAME",
        panel=_WHERE,
        complete=_complete_provider,
    ),
]
_Precision = Annotated[
    str | None,
    option(
        "What fp32 in a file is computed in: fp32, tf32 (cuda, tensorrt), fp16 (tensorrt).  [default: fp32]",
        metavar="LIST",
        panel=_WHERE,
    ),
]
_Threads = Annotated[int | None, option("Threads on the CPU.  [default: its cores]", metavar="N", panel=_WHERE)]
_ProviderOptions = Annotated[
    list[str] | None,
    option(
        "An option of ONNX Runtime's provider, such as prefer_nhwc=1. Can be repeated.",
        metavar="KEY=VALUE",
        panel=_WHERE,
    ),
]
_CudaGraph = Annotated[
    bool, option("Replay runs from CUDA graphs if all models can.", "--cuda-graph/--no-cuda-graph", panel=_WHERE)
]
_Cache = Annotated[
    Path | None,
    option("Keep TensorRT's engines here.  [default: ~/.cache/granet/tensorrt]", metavar="DIR", panel=_WHERE),
]
_Batch = Annotated[str, option("Images at a time, such as 1,32,128.", metavar="LIST", panel=_HOW)]
_Shape = Annotated[str | None, option("Size of an image, where the file leaves it open.", metavar="CxHxW", panel=_HOW)]
_WithCopies = Annotated[
    bool, option("Time from and to NumPy arrays, not on the device alone.", "--with-copies", panel=_HOW)
]
_TimeLimit = Annotated[
    float, option("For each batch size and precision; --processes may take longer.", metavar="SECONDS", panel=_HOW)
]
_Width = Annotated[
    float, option("Stop early once every ratio is known to within this share.", metavar="SHARE", panel=_HOW)
]
_Processes = Annotated[
    int, option("Fresh processes of each model, at least, whatever the time.", metavar="N", panel=_HOW)
]
_Seed = Annotated[int, option("Seed of the order in which models take turns.", metavar="N", panel=_HOW)]
_Json = Annotated[
    str | None,
    option(
        "Print JSON, and nothing else, on standard output; or write it to a file, beside the table.",
        metavar="[FILE.json]",
    ),
]


def bench(
    files: _Models = None,
    control: _Control = None,
    torch: _Torch = None,
    suite: _Suite = None,
    encodings: _Encodings = None,
    model: options.Confirmed = None,
    provider: _Provider = "auto",
    precision: _Precision = None,
    threads: _Threads = None,
    option: _ProviderOptions = None,
    cuda_graph: _CudaGraph = True,
    cache: _Cache = None,
    batch: _Batch = "1",
    shape: _Shape = None,
    with_copies: _WithCopies = False,
    time_limit: _TimeLimit = 60.0,
    width: _Width = 0.01,
    processes: _Processes = 5,
    seed: _Seed = 0,
    json: _Json = None,
    plot: Annotated[Path | None, options.plot("ratios and rates")] = None,
    overwrite: Annotated[bool, option("Replace the files of --json and --plot.", "--overwrite")] = False,
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
    from json import dumps

    from exporters.bench import providers

    providers.check_packages()  # before anything that would not even import without one
    from exporters.bench.environment import physical_cores
    from exporters.bench.runner import measure
    from exporters.bench.settings import BenchSettings, cache_folder
    from granet.errors import BenchmarkError, UsageError
    from granet.files import atomic
    from granet_cli.bench.plot import draw
    from granet_cli.bench.view import show
    from granet_cli.charts.render import check_plot
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
            raise UsageError("this option has no effect here", where=flag)
    for path in models:
        if path.suffix == ".safetensors":
            remedy = f"--torch {path} measures it, granet export --onnx makes a model of it"
            raise UsageError("a checkpoint is not an ONNX file", where=path, remedy=remedy)
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
    settings = BenchSettings(
        provider=provider,
        batches=parse_numbers(batch, "--batch", "1,64", number=int),
        precisions=tuple(precision.split(",")) if precision else (),
        shape=parse_numbers(shape, "--shape", "3x224x224", number=int, separator="x") if shape else (),
        with_copies=with_copies,
        cuda_graph=cuda_graph,
        threads=physical_cores() if threads is None else threads,
        time_limit=time_limit,
        processes=processes,
        width=width,
        options=extra,
        cache=cache or cache_folder(),
        seed=seed,
    )
    skipped = []
    if suite is not None:
        from exporters.bench.suite import export_suite

        exported = export_suite(suite, tuple((encodings or ENCODINGS).split(",")), confirmed=model, say=say)
        models += exported.models
        control, skipped = control or exported.control, exported.skipped
    report = measure(models, settings, control=control, checkpoint=torch, confirmed=model, say=say)
    report.skipped += skipped
    if target is not None:
        atomic.write(target, (dumps(report.as_json(), indent=2, allow_nan=False) + "\n").encode())
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
