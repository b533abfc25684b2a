"""Inference of a ResNet-50 at density 0.1, as exported, against its dense twin and against torch.

    python -m benchmarks.inference [--provider auto] [--batch 1,32,128] [--time-limit 60] [--json FILE]

Files are made from random masks (ERK), as ``granet export`` does, with fp32 and fp16 values, and measured as ``granet
bench`` does. On CUDA TensorRT is measured too, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import states
from exporters.bench.runner import measure
from exporters.bench.settings import BenchSettings
from exporters.onnx_export import ExportSettings, export
from granet import checkpoint
from granet.errors import BenchmarkError
from granet_cli.bench.view import show
from granet_cli.render import Screen


def files(folder: Path, density: float) -> tuple[Path, list[Path], Path]:
    """A checkpoint, what is exported of it, and the dense twin."""
    source = folder / "resnet50.safetensors"
    checkpoint.save(source, states.sparse(states.resnet50(), density))
    value = checkpoint.load(source)
    exported = []
    for precision in ("fp32", "fp16"):
        output = folder / f"resnet50-{precision}.onnx"
        export(
            value,
            output,
            ExportSettings(precision=precision, twin=precision == "fp32"),
        )
        exported.append(output)
    return source, exported, folder / "resnet50-fp32.dense.onnx"


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--batch", default="1,32,128")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    batches = tuple(int(batch) for batch in arguments.batch.split(","))
    documents = []
    with tempfile.TemporaryDirectory() as folder:
        source, exported, twin = files(Path(folder), arguments.density)
        for provider in (arguments.provider, "tensorrt"):
            settings = BenchSettings(provider=provider, batches=batches, time_limit=arguments.time_limit)
            try:
                report = measure(exported, settings, control=twin, checkpoint=source, say=_say)
            except BenchmarkError as error:
                if provider == arguments.provider:
                    raise
                print(f"no TensorRT: {error}")
                continue
            show(Screen(), report)
            documents.append(report.as_json())
            if report.provider == "cpu" or provider == "tensorrt":
                break
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for document in documents for row in document["results"]]
        failures = [row for document in documents for row in document["failures"]]
        document = {"environment": documents[0]["environment"], "results": rows, "failures": failures}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
