"""Puts other libraries' networks through granet: two steps, a resume, inspect, plan, export with its proof, and FLOPs.

    python -m scripts.sweep_models [--only REGEX] [--jobs 1] [--again] [--flops] [--report] [--out runs/sweep-models]

The networks are all classification models of torchvision and a small one of each family of timm, with random weights,
on images as small as each takes, two in a batch. Each has a process of its own with limits on its time and memory.
What is found stands in OUT/results.jsonl, a line a network, and networks that stand there are not tried again, unless
--again asks for those with which something is wrong. --flops counts FLOPs and does nothing else. --report only prints
the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from granet import flops
from granet.errors import Interrupted, shortened
from granet.models import build
from granet.training import RunFolder, train
from granet_cli import app
from scripts import sweep_networks
from tests.synthetic import write_image_folder

SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 240, 256, 299, 320, 384, 448)
CLASSES = 2
TOLERANCE = 0.01
"""The largest difference from torch's own count of FLOPs, over that count."""
STAGES = ("size", "train", "resume", "inspect", "plan", "export", "flops")
CPU = torch.device("cpu")

Result = dict[str, Any]


class StageError(Exception):
    """A stage that went wrong; its text goes into the table."""


def smallest_size(name: str) -> tuple[int, int]:
    """The smallest image size that the network can be trained on, and its number of parameters."""
    said = ""
    for size in SIZES:
        network = build(name, in_channels=3, classes=CLASSES, image_size=size, trial=False)
        try:
            with torch.no_grad():
                output = network.train()(torch.zeros(2, 3, size, size))
                network.eval()(torch.zeros(1, 3, size, size))
        except Exception as error:  # networks say in many ways that an image is too small
            said = f"{type(error).__name__}: {error}"
            continue
        if not isinstance(output, torch.Tensor) or output.shape == (2, CLASSES):
            return size, sum(parameter.numel() for parameter in network.parameters())
    raise StageError(f"takes no image size of {SIZES}: {said}")


def command(*arguments: object) -> str:
    """What the command line prints; it runs in this process, which saves its start."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = app.run([str(argument) for argument in arguments])
    if code:
        raise StageError(f"exit {code}: {' '.join(errors.getvalue().split())}")
    return out.getvalue() + errors.getvalue()


def settings(name: str, folder: Path, size: int) -> list[object]:
    """Options of ``granet train`` and ``granet plan``: two steps, with an update of the masks after the first."""
    images = folder / "images"
    if not images.exists():  # of 6 images 2 are held out
        write_image_folder(images, classes=CLASSES, per_class=3, size=size)
    assigned = ("method.interval=1it", f"data.image_size={size}", "data.validation=0.34", "data.workers=0",
                "training.save_every=1it", "training.batch_size=2", "optimizer.learning_rate=1e-4")  # fmt: skip
    sets = [part for setting in assigned for part in ("--set", setting)]
    return ["--model", name, "--data", images, "--epochs", "1", *sets]


def trained(name: str, folder: Path, size: int) -> str:
    """Train two steps."""
    try:
        said = command("train", *settings(name, folder, size), "--no-export-check", "--out", folder / "run")
    except StageError as error:
        refused = not (folder / "run").exists() and "this is a bug" not in str(error)
        raise StageError(f"refused before training: {error}" if refused else str(error)) from None
    return "; ".join(" ".join(line.split()) for line in said.splitlines() if line.startswith(("note", "warning")))


def resumed(folder: Path) -> None:
    """Train the same, stop after one step and resume: every file must be that of the unbroken run."""
    unbroken, broken = RunFolder(folder / "run"), RunFolder(folder / "broken")
    recipe, steps = unbroken.open()[0], iter((False, True))
    with contextlib.suppress(Interrupted):
        train(recipe, broken, CPU, stop=lambda: next(steps))
    command("train", "--resume", broken.path)
    if differ := [name for name, content in contents(unbroken.path).items() if contents(broken.path)[name] != content]:
        raise StageError(f"differ from the unbroken run: {', '.join(differ)}")
    shutil.rmtree(broken.path)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that hold times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def counted(name: str, size: int) -> Result:
    """FLOPs of granet over torch's own count, in which attention is written out.

    Of torch's, ``products`` multiply activations by each other; no weight has a part in them.
    """
    network = build(name, in_channels=3, classes=CLASSES, image_size=size, trial=False).eval().requires_grad_(False)
    own = flops.inference(network, (3, size, size))
    torch.backends.mha.set_fastpath_enabled(False)  # torch does not count its fused kernel
    counter = FlopCounterMode(display=False)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH), counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    everywhere = {str(operator): int(count) for operator, count in counter.get_flop_counts()["Global"].items()}
    products = sum(count for operator, count in everywhere.items() if "bmm" in operator)
    total = sum(everywhere.values())
    return {"granet": own, "torch": total, "products": products}


def stages(name: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is done with a network, by the name of its column."""
    size, parameters = smallest_size(name)
    yield "size", lambda: {"size": size, "parameters": parameters}
    yield "train", lambda: trained(name, folder, size)
    last = folder / "run" / "last.safetensors"
    yield "resume", lambda: resumed(folder)
    yield "inspect", lambda: command("inspect", last) and None
    yield "plan", lambda: command("plan", *settings(name, folder, size), "--steps", "1") and None
    yield "export", lambda: command("export", "--onnx", last, "-o", folder / "model.onnx") and None
    yield "flops", lambda: counted(name, size)


def try_out(name: str, folder: Path, wanted: Collection[str]) -> None:
    """Print a JSON line for each stage that is wanted; what comes after a failed training is left out."""
    todo = ((stage, work) for stage, work in stages(name, folder) if stage in wanted)
    while True:
        started = time.monotonic()
        stage, line = "size", {}
        try:
            stage, work = next(todo)
            line["ok"] = work()
        except StopIteration:
            return
        except StageError as error:
            line["error"] = str(error)
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({"stage": stage, **line, "seconds": time.monotonic() - started, "mb": peak}), flush=True)
        if "error" in line and stage in ("size", "train"):
            return


def child(name: str, work: Path, wanted: Sequence[str], *, seconds: float, gigabytes: float) -> Result:
    """Try a network out in a process of its own; what its stages came to."""
    folder = work / re.sub(r"\W", "-", name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    limit = int(gigabytes * 2**30)
    arguments = [sys.executable, "-m", "scripts.sweep_models", "--one", name, "--out", str(folder)]
    arguments += ["--flops"] if "train" not in wanted else []
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),  # noqa: PLW1509
    )
    begin, ended = time.monotonic(), ""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        ended = f"took more than {seconds:.0f} s"
    found = {line.pop("stage"): line for line in map(json.loads, out.splitlines())}
    if process.returncode:
        lacking = next((stage for stage in wanted if stage not in found), wanted[-1])
        said = errors.strip().splitlines()[-1:] or [f"ended with {process.returncode}"]
        found[lacking] = {"error": ended or said[0]}
    shutil.rmtree(folder)
    return {"model": name, "stages": found, "seconds": time.monotonic() - begin}


def cell(result: Result, stage: str) -> str:
    """One word for the table."""
    found = result["stages"].get(stage)
    if found is None:
        return "-"
    if "error" in found:
        text = found["error"]
        if re.search("memory|MemoryError", text):
            return "memory"
        words = {"refused before": "refused", "this is a bug": "BUG", "took more": "time"}
        return next((word for start, word in words.items() if start in text), "FAILED")
    if stage == "flops":
        count = found["ok"]
        return f"{count['granet'] / count['torch']:.3f}"
    return "ok"


def is_right(result: Result) -> bool:
    """Whether everything went through, or training was refused before it began."""
    cells = {stage: cell(result, stage) for stage in STAGES}
    if cells["train"] == "refused":
        return True
    agrees = cells["flops"].startswith(("0", "1")) and abs(float(cells["flops"]) - 1) <= TOLERANCE
    return agrees and all(cells[stage] == "ok" for stage in STAGES[:-1])


def is_done(result: Result, wanted: Sequence[str]) -> bool:
    """Whether what is wanted was tried, or no size of images was found for it."""
    return wanted[1] in result["stages"] or "error" in result["stages"]["size"]


def read(file: Path) -> dict[str, Result]:
    """The last result of each network."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {result["model"]: result for result in map(json.loads, lines)}


def report(results: dict[str, Result]) -> None:
    """Print the table, and under it what went wrong."""
    print(f"{'network':44} {'pixels':>6} {'weights':>8} {' '.join(f'{stage:>8}' for stage in STAGES[1:])}")
    for name, result in results.items():
        size = result["stages"].get("size", {}).get("ok", {"size": 0, "parameters": 0})
        cells = " ".join(f"{cell(result, stage):>8}" for stage in STAGES[1:])
        print(f"{name:44} {size['size']:>6} {size['parameters'] / 1e6:>7.1f}M {cells}")
    print()
    for name, result in results.items():
        for stage, found in result["stages"].items():
            if "error" in found:
                print(f"{name}, {stage}: {shortened(found['error'], 700)}")
            elif stage == "train" and found["ok"]:
                print(f"{name}, said: {shortened(found['ok'], 700)}")
    right = sum(is_right(result) for result in results.values())
    print(f"\n{right} of {len(results)} networks went through, or were refused before training")


def main() -> None:
    """Sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names that this regular expression is found in")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="try those again with which something was wrong")
    parser.add_argument("--flops", action="store_true", help="count FLOPs and do nothing else")
    parser.add_argument("--report", action="store_true", help="print the table of what is known, and try nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep-models"))
    parser.add_argument("--seconds", type=float, default=900, help="at most for each network")
    parser.add_argument("--memory", type=float, default=10, help="GB at most for each network")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    wanted = ("size", "flops") if arguments.flops else STAGES
    if arguments.one:
        torch.set_num_threads(1)
        os.environ["COLUMNS"] = "1000"
        try_out(arguments.one, arguments.out, wanted)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.jsonl"
    known = read(file)
    asked = [name for name in sweep_networks.names() if re.search(arguments.only, name)]
    missing = [
        name
        for name in asked
        if name not in known or not is_done(known[name], wanted) or (arguments.again and not is_right(known[name]))
    ]

    def one(name: str) -> None:
        result = child(name, arguments.out / "work", wanted, seconds=arguments.seconds, gigabytes=arguments.memory)
        if arguments.flops:
            result["stages"] = {**read(file).get(name, {"stages": {}})["stages"], **result["stages"]}
        with file.open("a") as lines:
            lines.write(json.dumps(result) + "\n")
        print(f"{name}: {' '.join(cell(result, stage) for stage in STAGES)}, {result['seconds']:.0f} s", flush=True)

    if not arguments.report:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(one, missing))
    report({name: result for name, result in read(file).items() if re.search(arguments.only, name)})


if __name__ == "__main__":
    main()
