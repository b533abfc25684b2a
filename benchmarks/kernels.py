"""Sparse layers by the kernels against ONNX Runtime's dense ones, in one process for each instruction set.

    python -m benchmarks.kernels [--network resnet50 ...] [--density "uniform 0.1" ...] [--isa avx512 avx2]
                                 [--batch 1] [--threads 1] [--rounds 30] [--json FILE]

Whole networks with random masks. Both sessions take turns; with one thread, times are processor time of that thread,
which other work on the machine disturbs less, and with more they are time that passes. For AVX2 on a processor with
AVX-512 that is hidden from ONNX Runtime as well.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN = Path(__file__).with_name("without_avx512.c")


def measure_here(arguments: argparse.Namespace, isa: str) -> list[dict[str, Any]]:
    """Measure all networks with one instruction set, in this process, which must not have loaded ONNX Runtime yet."""
    os.environ["GRANET_KERNELS_ISA"] = isa
    if isa == "avx2" and "avx512f" in Path("/proc/cpuinfo").read_text():
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "hide.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", str(HIDDEN), "-o", str(library)], check=True)
            if ctypes.CDLL(str(library)).hide():
                raise SystemExit("this processor cannot hide AVX-512")
    import granet.kernels
    from benchmarks import island_networks

    import onnxruntime  # isort: skip  after AVX-512 is hidden

    def session(model: Any, *, kernels: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        if kernels:
            granet.kernels.register(options)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    results = []
    for network in arguments.network:
        for density in arguments.density:
            builder = island_networks.Builder(island_networks.DENSITIES[density])
            last, stem = island_networks.NETWORKS[network](builder)
            sessions = [
                session(builder.model(last, stem, island=island, batch=arguments.batch), kernels=island)
                for island in (False, True)
            ]
            images = np.random.default_rng(2).standard_normal((arguments.batch, 3, stem.size, stem.size))
            images = images.astype(np.float32)
            outputs = [opened.run(None, {"x": images})[0] for opened in sessions]
            error = float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
            samples = _take_turns(sessions, images, arguments)
            ratios = samples[0] / samples[1]
            results.append(
                {
                    "network": network,
                    "density": density,
                    "isa": isa,
                    "batch": arguments.batch,
                    "threads": arguments.threads,
                    "dense_ms": float(np.median(samples[0]) * 1e3),
                    "sparse_ms": float(np.median(samples[1]) * 1e3),
                    "ratio": float(np.median(ratios)),
                    "ratio_low": float(np.quantile(ratios, 0.25)),
                    "ratio_high": float(np.quantile(ratios, 0.75)),
                    "ratio_of_minima": float(samples[0].min() / samples[1].min()),
                    "error": error,
                    "samples_s": samples.tolist(),
                }
            )
    return results


def _take_turns(sessions: list[Any], images: Any, arguments: argparse.Namespace) -> Any:
    clock = time.CLOCK_THREAD_CPUTIME_ID if arguments.threads == 1 else time.CLOCK_MONOTONIC
    samples: list[list[float]] = [[] for _ in sessions]
    for round_number in range(arguments.rounds + 2):
        for taken, opened in zip(samples, sessions, strict=True):
            begin = time.clock_gettime(clock)
            opened.run(None, {"x": images})
            if round_number >= 2:
                taken.append(time.clock_gettime(clock) - begin)
    return np.array(samples)


def main() -> None:
    """Measure in one process for each instruction set, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["resnet50"])
    parser.add_argument("--density", nargs="+", default=["uniform 0.1", "ERK-like 0.1", "uniform 0.2", "uniform 0.05"])
    parser.add_argument("--isa", nargs="+", default=["avx512", "avx2"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        arguments.json.write_text(json.dumps(measure_here(arguments, arguments.child)))
        return
    results = []
    print("| network | density | isa | dense, ms | kernels, ms | ratio [quartiles] | of minima | error |")
    print("|---|---|---|---|---|---|---|---|")
    for isa in arguments.isa:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found.json"
            command = [sys.executable, "-m", "benchmarks.kernels", *sys.argv[1:], "--child", isa, "--json", str(found)]
            subprocess.run(command, check=True)
            mine = json.loads(found.read_text())
        for r in mine:
            quartiles = f"{r['ratio']:.2f} [{r['ratio_low']:.2f}, {r['ratio_high']:.2f}]"
            print(
                f"| {r['network']} | {r['density']} | {r['isa']} | {r['dense_ms']:.2f} | {r['sparse_ms']:.2f} "
                f"| {quartiles} | {r['ratio_of_minima']:.2f} | {r['error']:.1e} |",
                flush=True,
            )
        results += mine
    if arguments.json:
        from exporters.bench.environment import environment

        arguments.json.write_text(json.dumps({"environment": environment(), "results": results}, default=str))


if __name__ == "__main__":
    main()
