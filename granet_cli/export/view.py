"""``granet export --onnx``: images to prove the export on, and its report for people and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.text import Text

from granet.errors import counted
from granet_cli.render import FAINT, Screen, percent, short, size

if TYPE_CHECKING:
    from exporters.onnx_export import ExportReport
    from granet.checkpoint import Checkpoint
    from granet.data import Dataset


def find_images(checkpoint: Checkpoint, data: str | None) -> Dataset | None:
    """Images that the network takes: those that ``--data`` names, else those of the recipe where they lie, else those
    that come along; None when none of these fit.

    Raises:
        UsageError: ``data`` is neither a dataset nor a folder.
        DataError: it cannot be read, or holds other images than the network takes.
    """
    from exporters.examples import fits
    from granet.data import open_dataset
    from granet.errors import DataError, UsageError
    from granet.training import open_data
    from granet_cli.overrides import EMBEDDED, evaluated_on

    network = checkpoint.network
    if data is not None:
        dataset = open_data(evaluated_on(checkpoint, data))
        if not fits(dataset, network):
            raise DataError(
                "the network takes other images",
                where=dataset.name,
                got=f"{dataset.channels} x {dataset.image_size} x {dataset.image_size}",
                expected=f"{network.in_channels} x {network.image_size} x {network.image_size}",
            )
        return dataset
    try:
        dataset = open_data(evaluated_on(checkpoint, None))
        if fits(dataset, network):
            return dataset
    except (DataError, UsageError):  # nobody asked for them
        pass
    dataset = open_dataset(EMBEDDED)
    return dataset if fits(dataset, network) else None


def progress() -> Callable[[str], None]:
    """Return a function that shows a step of an export on a terminal, and does nothing elsewhere."""
    screen = Screen(stderr=True)
    if not screen.live:
        return lambda _: None
    return lambda step: screen.print(Text(f"{step} ...", style=FAINT))


def as_json(report: ExportReport) -> dict[str, Any]:
    """What ``granet export --onnx --json`` prints."""
    proof = report.proof
    return {
        "output": str(report.output),
        "format": "onnx",
        "bytes": report.bytes,
        "dense_bytes": report.dense_bytes,
        "limit_bytes": report.limit_bytes,
        "parameters": report.parameters,
        "active": report.active,
        "density": report.density,
        "zeros": report.zeros,
        "precision": report.settings.precision,
        "compute": report.settings.compute,
        "opset": report.opset,
        "encodings": dict(report.encodings),
        "islands": [list(island.layers) for island in report.islands],
        "max_abs_error": proof.max_abs_error,
        "max_rel_error": proof.max_rel_error,
        "tolerance": proof.tolerance,
        "argmax_agreement": proof.argmax_agreement,
        "examples": {"random": proof.random, "real": proof.real, "source": proof.source},
        "bit_identical": list(proof.bit_identical),
        "unfolded": proof.unfolded,
        "kernels_max_rel_error": proof.kernels_max_rel_error,
        "content_hash": report.origin.content_hash,
        "twin": None if report.twin is None else str(report.twin),
        "compaction": None if report.compaction is None else report.compaction.as_json(),
        "remarks": list(report.remarks),
    }


def show(screen: Screen, report: ExportReport) -> None:
    """The file, what is in it and how it was proved, in a few lines."""
    share, over = report.bytes / report.dense_bytes, report.bytes / report.limit_bytes - 1
    screen.heading(report.output, size(report.bytes))
    for name, lines in _facts(report, share, over):
        screen.facts(((name if index == 0 else "", line) for index, line in enumerate(lines)), width=11)


def _islands(report: ExportReport) -> str:
    layers = sum(len(island.layers) for island in report.islands)
    text = f"{counted(layers, 'layer')} in {counted(len(report.islands), 'island')} for granet's sparse kernels"
    error = report.proof.kernels_max_rel_error
    return text if error is None else f"{text}; with them an error of {error:.2g} of the largest output"


def _facts(report: ExportReport, share: float, over: float) -> list[tuple[str, list[str]]]:
    proof, compaction = report.proof, report.compaction
    counts = Counter(report.encodings.values()).most_common()
    tried = [f"{proof.random} random inputs", *([f"{proof.real} of {proof.source}"] if proof.real else [])]
    agreement = "" if proof.argmax_agreement is None else f", {percent(proof.argmax_agreement)} the same answer"
    facts = [
        ("size", [f"{share:.1%} of its dense twin's {size(report.dense_bytes)}, {over:+.1%} to the entropy limit"]),
        ("density", [f"{report.density:.4f}: {report.active:,} of {report.parameters:,} maskable weights active"]),
        ("encodings", [", ".join(f"{name} {count}" for name, count in counts)]),
        (
            "format",
            [f"values in {report.settings.precision}, computes in {report.settings.compute}, opset {report.opset}"],
        ),
        *([("kernels", [_islands(report)])] if report.islands else []),
        (
            "proof",
            [
                f"against torch on {', '.join(tried)}",
                f"largest error {proof.max_abs_error:.2g}, {proof.max_rel_error:.2g} of the largest output{agreement}",
                f"bit for bit its dense twin at optimisation {' and '.join(proof.bit_identical)}; no decoder is left",
            ],
        ),
    ]
    if compaction is not None:
        facts.append(("compaction", _compaction(compaction)))
    if report.twin is not None:
        facts.append(("twin", [str(report.twin)]))
    return facts


def _compaction(compaction: Any) -> list[str]:
    if not compaction.removed:
        return list(compaction.notes)
    lines = [
        f"{compaction.removed:,} channels removed, {compaction.parameters_before - compaction.parameters_after:,} of "
        f"{compaction.parameters_before:,} parameters"
    ]
    before, after = compaction.flops_before, compaction.flops_after
    if before is not None and after is not None:
        lines.append(f"FLOPs of an image {short(before)} -> {short(after)}, {after / before:.1%}")
    return lines
