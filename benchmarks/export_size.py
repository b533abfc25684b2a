"""How small exported ResNet-50s are: against their dense twins, and against what information theory leaves.

    python -m benchmarks.export_size [--json FILE]

Weights are random, at an ERK mask; what a training would change is not their number. Every file is proved against
torch in ONNX Runtime before its size counts. The limit is H(d) N + b n bits for a tensor of N weights of which n = d N
are not zero, b bits each, and everything else as it is stored.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import states
from benchmarks.measure import environment
from exporters.onnx_export import ExportSettings, export
from granet import checkpoint

ROWS = ((0.02, "fp32"), (0.05, "fp32"), (0.1, "fp32"), (0.2, "fp32"), (0.1, "fp16"), (0.1, "int8"))
"""Densities and precisions of the values."""

OVER_LIMIT = 0.05
MEGABYTES = {(0.1, "fp32"): 12.1, (0.1, "fp16"): 7.4}


def measure(folder: Path) -> list[dict[str, object]]:
    """Exports one file a row."""
    model, rows = states.resnet50(), []
    for density, precision in ROWS:
        source, output = folder / "resnet50.safetensors", folder / "resnet50.onnx"
        checkpoint.save(source, states.sparse(model, density))
        settings = ExportSettings(precision=precision)
        value = checkpoint.load(source)
        report = export(value, output, settings)
        counts = {name: list(report.encodings.values()).count(name) for name in sorted({*report.encodings.values()})}
        rows.append(
            {
                "density": density,
                "precision": precision,
                "bytes": report.bytes,
                "dense_bytes": report.dense_bytes,
                "limit_bytes": report.limit_bytes,
                "over": report.bytes / report.limit_bytes - 1,
                "max_rel_error": report.proof.max_rel_error,
                "encodings": counts,
            }
        )
        print(_row(rows[-1]), flush=True)
    return rows


def _row(row: dict[str, object]) -> str:
    key = (row["density"], row["precision"])
    allowed = f"<= {MEGABYTES[key]} MB" if key in MEGABYTES else ""  # type: ignore[index]
    over = f"<= {OVER_LIMIT:.0%}" if row["precision"] == "fp32" else ""
    encodings = ", ".join(f"{name} {count}" for name, count in row["encodings"].items())  # type: ignore[attr-defined]
    return (
        f"  {row['density']:>7} {row['precision']:>6} {row['bytes'] / 1e6:>8.2f} {allowed:>11} "  # type: ignore[operator]
        f"{row['limit_bytes'] / 1e6:>8.2f} {row['over']:>+8.2%} {over:>6} "  # type: ignore[operator]
        f"{row['dense_bytes'] / 1e6:>8.1f} {row['max_rel_error']:>9.1e}  {encodings}"  # type: ignore[operator]
    )


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print("\nResNet-50 at 224 x 224, batch norms folded, ERK, sizes in MB")
    print(
        f"  {'density':>7} {'values':>6} {'file':>8} {'':11} {'limit':>8} {'over':>8} {'':6} {'twin':>8} {'error':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
