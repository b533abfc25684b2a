"""All measurements and tests that need a GPU, in one command that installs nothing.

    python -m benchmarks.gpu [--json runs/gpu.json] [--parts NAME ...] [--quick]

Runs the CUDA tests, the benchmarks of optimizer steps, updates, whole trainings and input pipelines, and, where ONNX
Runtime has CUDA, exports a ResNet-50 and measures its inference. Each part is a process of its own, so that none can
crash the others. A part that cannot run here is skipped with a reason; the exit code is 1 when a part
failed, else 0. Needs Python 3.11, torch 2.11 and NumPy; whatever else a part needs and is not there is named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exporters.bench.environment import usable_cores

ROOT = Path(__file__).parents[1]
BASE = ("numpy", "torch", "granet")


@dataclass(frozen=True)
class Part:
    """Something to run.

    Attributes:
        name: for the table and ``--parts``.
        what: it shows.
        command: arguments of this Python; ``{out}`` is the file for its results.
        needs: modules without which it cannot run.
        read: turns that file into flat rows.
        limit: seconds.
        missing: a reason why it cannot run here, beyond modules; None when there is none.
    """

    name: str
    what: str
    command: Sequence[str]
    needs: Sequence[str]
    read: Callable[[Path], list[dict[str, Any]]]
    limit: float = 600.0
    missing: Callable[[], str | None] = lambda: None


@dataclass
class Done:
    """The outcome of a part: ``done``, ``skipped`` or ``failed``."""

    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)


@cache
def no_gpu() -> str | None:
    """Return why nothing can run on a GPU, or None."""
    code = (
        "import torch; print('' if torch.cuda.is_available() else"
        " f'torch {torch.__version__} is a CPU build' if torch.version.cuda is None else 'torch sees no GPU')"
    )
    return _asked(code)


@cache
def no_onnx_cuda() -> str | None:
    """Return why ONNX Runtime cannot run on a GPU, or None."""
    code = "import json; from exporters.bench import libraries;print('; '.join(libraries.missing('cuda')))"
    return no_gpu() or _asked(code, say="onnxruntime lacks ")


def results(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a benchmark's JSON, without raw samples."""
    rows = json.loads(path.read_text())["results"]
    return [{key: value for key, value in row.items() if not key.startswith("samples_")} for row in rows]


def tests(path: Path) -> list[dict[str, Any]]:
    """Return the counts of a JUnit file, and the names of failed tests."""
    suite = ElementTree.parse(path).getroot().find("testsuite")  # noqa: S314  pytest wrote it a moment ago
    if suite is None:
        return []
    bad = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    return [{"benchmark": "CUDA tests", **counts, "failed": bad}]


def _benchmark(name: str, what: str, module: str, *options: str, needs: Sequence[str] = ()) -> Part:
    """Return one of these benchmarks as a part."""
    command = ["-m", f"benchmarks.{module}", *options, "--json", "{out}"]
    return Part(name, what, command, (*BASE, *needs), results, missing=no_gpu)


def parts(quick: bool) -> list[Part]:
    """Return all parts, from the shortest to the longest."""
    rounds = ["--rounds", "3"] if quick else []
    seconds = "2" if quick else "60"
    workers = [str(count) for count in sorted({1, usable_cores()})]
    # Options of pyproject.toml that ask for plugins, and warnings of other versions, are not what is tested here.
    pytest = ["-m", "pytest", "-q", "-k", "cuda", "tests", "-o", "addopts=", "-o", "filterwarnings=default"]
    return [
        Part(
            "tests",
            "the CUDA tests",
            [*pytest, "-p", "no:cacheprovider", "--continue-on-collection-errors", "--junitxml", "{out}"],
            ("pytest", *BASE),
            tests,
            missing=no_gpu,
        ),
        _benchmark("step", "an optimizer step", "step_cost"),
        _benchmark("update", "an update of the masks", "update_cost", *rounds),
        _benchmark("selection", "choosing the largest of many", "selection_cost", *rounds),
        _benchmark("memory", "memory of an update", "update_memory"),
        _benchmark("scaling", "growth with the network", "scaling", *(["--most", "70"] if quick else [])),
        _benchmark("training", "a whole training step", "train_step", *rounds),
        _benchmark(
            "throughput",
            "whole trainings, sparse and dense",
            "throughput",
            *(["--epochs", "2"] if quick else []),
            needs=("pydantic",),
        ),
        _benchmark("resident", "input from memory", "input_resident", *rounds, needs=("PIL",)),
        _benchmark("streaming", "input from files", "input_streaming", *rounds, "--workers", *workers, needs=("PIL",)),
        Part(
            "inference",
            "export, and inference in ONNX Runtime",
            ["-m", "benchmarks.inference", "--time-limit", seconds, "--json", "{out}"],
            (*BASE, "onnx", "onnxscript", "onnxruntime"),
            results,
            limit=3600.0,
            missing=no_onnx_cuda,
        ),
    ]


def run(part: Part, out: Path) -> Done:
    """Run one part, if it can run here."""
    for module in part.needs:
        reason = _cannot_import(module)
        if reason is not None:
            return Done(part.name, "skipped", reason)
    reason = part.missing()
    if reason:
        return Done(part.name, "skipped", reason)
    begin = time.monotonic()
    command = [sys.executable, *(argument.format(out=out) for argument in part.command)]
    try:
        code = subprocess.run(command, check=False, cwd=ROOT, env=_environment(), timeout=part.limit).returncode
    except subprocess.TimeoutExpired:
        return Done(part.name, "failed", f"not done after {part.limit:.0f} s", time.monotonic() - begin)
    rows = part.read(out) if out.exists() else []
    seconds = time.monotonic() - begin
    if code != 0:
        return Done(part.name, "failed", f"exit code {code}", seconds, rows)
    return Done(part.name, "done", "", seconds, rows)


def table(done: Sequence[Done]) -> str:
    """Return a line for each result, and for each part without any."""
    lines = [f"{'part':10} {'what':58} {'ms':>10} {'ratio':>7}  interval"]
    for part in done:
        if part.status != "done":
            lines.append(f"{part.name:10} {part.status}: {part.reason}")
        for row in part.results:
            if "median_ms" not in row:
                lines.append(
                    f"{part.name:10} {', '.join(f'{key} {value}' for key, value in row.items() if value != [])}"
                )
                continue
            batch = f", batch {row['batch']}" if "batch" in row else ""
            what = f"{row.get('benchmark', '')[:24]}: {row['model']}{batch}".removeprefix(": ")
            low, high = row["ratio_low"], row["ratio_high"]
            interval = f"{low:.2f} to {high:.2f}" if low is not None and high is not None else ""
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            lines.append(f"{part.name:10} {what[-58:]:58} {row['median_ms']:10.3f} {ratio:>7}  {interval}")
    return "\n".join(lines)


@cache
def _cannot_import(module: str) -> str | None:
    """Return why a module cannot be imported, by trying in a process of its own, or None."""
    if module != "granet" and find_spec(module) is None:
        return f"{module} is not installed"
    if module != "granet":
        return None
    return _asked("import granet; granet.Sparsifier; granet.methods; print('')", say="granet cannot be imported: ")


def _asked(code: str, say: str = "") -> str | None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason told"]
        return f"{say}{last[0]}"
    return f"{say}{done.stdout.strip()}" if done.stdout.strip() else None


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def main() -> int:
    """Run the parts, print one table and write one JSON; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in parts(quick=False)]
    parser.add_argument("--json", type=Path, default=Path("runs/gpu.json"))
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="few rounds, to see whether it works")
    arguments = parser.parse_args()
    from exporters.bench.clocks import Gpu
    from exporters.bench.environment import environment

    gpu = Gpu.open()
    done = []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(arguments.quick):
            if part.name in arguments.parts:
                print(f"\n== {part.name}: {part.what}", flush=True)
                done.append(run(part, Path(folder) / f"{part.name}.out"))
                print(f"== {part.name}: {done[-1].status} {done[-1].reason}".rstrip(), flush=True)
    print(f"\n{table(done)}")
    document = {
        "environment": environment(gpu=gpu.describe() if gpu else None),
        "parts": [{key: value for key, value in asdict(part).items() if key != "results"} for part in done],
        "results": [{"part": part.name, **row} for part in done for row in part.results],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{arguments.json}")
    return int(any(part.status == "failed" for part in done))


if __name__ == "__main__":
    sys.exit(main())
