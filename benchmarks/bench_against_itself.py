"""Whether ``granet bench`` can be believed: a file against itself, and against one with a layer more.

    python -m benchmarks.bench_against_itself [--repetitions 20] [--slowed 5] [--time-limit 20] [--json FILE]

An interval that says 0.99 has to hold 1.00 for a file against a copy of itself in 19 of 20 repetitions or better, on
whatever machine this is and however busy; the exit code is 1 when it does not. A file with one layer more than its
control has to be called slower, each time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measure import write
from exporters.bench.report import BenchReport
from exporters.bench.runner import measure
from exporters.bench.settings import BenchSettings

LAYERS, CHANNELS, SIZE = 6, 32, 28


def network(path: Path, layers: int) -> Path:
    """A file of convolutions with 32 channels, each on 28 x 28 positions."""
    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "images"
    for number in range(layers):
        inputs = 3 if number == 0 else CHANNELS
        weight = (generator.standard_normal((CHANNELS, inputs, 3, 3)) / np.sqrt(9 * inputs)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"weight{number}"))
        nodes.append(helper.make_node("Conv", [last, f"weight{number}"], [f"conv{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]))
        last = f"relu{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CHANNELS, 1, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def once(model: Path, control: Path, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One measurement, and the row of the model."""
    settings = BenchSettings(
        provider=arguments.provider,
        batches=(arguments.batch,),
        time_limit=arguments.time_limit,
        seed=seed,
        **({"threads": arguments.threads} if arguments.threads else {}),
    )
    report: BenchReport = measure([model], settings, control=control)
    if report.interrupted or not report.results:
        raise SystemExit(130 if report.interrupted else str(report.failures[0].error))
    row = report.results[0].as_json()
    print(
        f"  {row['ratio']:.4f}  {row['ratio_low']:.4f} to {row['ratio_high']:.4f}  {row['processes']:2} processes, "
        f"{row['median_ms']:.3f} ms  {row['outcome']}",
        flush=True,
    )
    return row


def main() -> int:
    """Measures, prints, and saves when asked to; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--slowed", type=int, default=5, help="repetitions against the slower file")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--model", type=Path, help="an ONNX file of your own, to be measured against itself")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or network(Path(folder) / "model.onnx", LAYERS)
        slower = network(Path(folder) / "slower.onnx", LAYERS + 1)
        copy = Path(shutil.copy(model, Path(folder) / "copy.onnx"))
        print(f"a file against itself, {arguments.repetitions} times")
        equal = [once(model, copy, arguments, seed) for seed in range(arguments.repetitions)]
        if arguments.model is None:
            print(f"a layer more than the control's {LAYERS}, {arguments.slowed} times")
        slowed = [
            once(slower, model, arguments, seed) for seed in range(arguments.slowed if not arguments.model else 0)
        ]
    held = sum(row["ratio_low"] <= 1.0 <= row["ratio_high"] for row in equal)
    told = sum(row["outcome"] == "slower" for row in slowed)
    width = np.median([row["ratio_high"] / row["ratio_low"] for row in equal]) ** 0.5 - 1
    print(f"1.00 is in {held} of {len(equal)} intervals (limit 19 of 20), which are {100 * width:.1f} % to either side")
    if slowed:
        print(f"a layer more is called slower in {told} of {len(slowed)} (limit all)")
    if arguments.json:
        write(arguments.json, [{"benchmark": "against itself", **row} for row in equal] +
              [{"benchmark": "a layer more", **row} for row in slowed])  # fmt: skip
    return int(held < 0.95 * len(equal) or told < len(slowed))


if __name__ == "__main__":
    sys.exit(main())
