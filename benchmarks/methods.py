"""Methods side by side: the same recipe, several seeds, accuracy on the test set as mean and deviation.

python -m benchmarks.methods [--recipe NAME] [--methods NAME ...] [--seeds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import heading, write
from granet.analysis.inspection import inspect
from granet.checkpoint import load
from granet.recipe import Recipe
from granet.training import RunFolder, resolve_device, train


def run(recipe: Recipe, seed: int, folder: Path) -> dict[str, object]:
    """One training; what its best checkpoint is like."""
    begin = time.perf_counter()
    runs = RunFolder(folder)
    result = train(recipe.override({"seed": str(seed)}), runs, resolve_device("auto"))
    seconds = time.perf_counter() - begin
    best = inspect(load(runs.best))
    return {
        "seed": seed,
        "accuracy": result.accuracy,
        "density": best.density,
        "flops": best.flops["active"] / best.flops["dense"] if best.flops else None,
        "bytes": runs.best.stat().st_size,
        "seconds": seconds,
    }


def compare(base: Recipe, methods: Sequence[str], seeds: int) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """All runs of each method in turn."""
    for method in methods:
        recipe, left_out = base.with_method(method)
        if left_out:
            print(f"# {method} has no use for {', '.join(left_out)} of the recipe")
        with tempfile.TemporaryDirectory() as folder:
            yield method, [run(recipe, seed, Path(folder) / str(seed)) for seed in range(seeds)]


def main() -> None:
    """Measures, prints a Markdown table, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--methods", nargs="+", default=["dense", "granet", "rigl", "gmp", "static"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    base = Recipe.load(arguments.recipe)
    print(heading())
    print(f"\n| {base.name} | density | test accuracy, {arguments.seeds} seeds | FLOPs | checkpoint | seconds |")
    print("|---|---|---|---|---|---|")
    results = {}
    for method, runs in compare(base, arguments.methods, arguments.seeds):
        accuracy = 100 * np.array([entry["accuracy"] for entry in runs])
        deviation = accuracy.std(ddof=1) if len(accuracy) > 1 else float("nan")
        first = runs[0]
        seconds = np.median([entry["seconds"] for entry in runs])
        print(
            f"| {method} | {first['density']:.4f} | {accuracy.mean():.2f} ± {deviation:.2f} % "
            f"| {100 * first['flops']:.1f} % | {first['bytes'] / 1e3:.0f} kB | {seconds:.0f} |",
            flush=True,
        )
        results[method] = runs
    if arguments.json:
        rows = [{"method": method, **entry} for method, runs in results.items() for entry in runs]
        write(arguments.json, rows, recipe=base.as_dict())


if __name__ == "__main__":
    main()
