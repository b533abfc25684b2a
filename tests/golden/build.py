"""How the golden files were made: files of every kind that granet writes, which every later version has to open.

    python -m tests.golden.build

makes, in the folder of the version below, what is missing there and notes in expected.json what this version finds in
it. Nothing that is there is made again or written over: a file that a released version wrote does not change. For the
files of another version, change ``VERSION``, and leave the folders of earlier ones alone.

Only the command line, the doors of ``granet`` and the standard libraries are used, so that it goes on working whatever
becomes of the modules inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor

import exporters.compaction
import granet
from granet_cli.app import run

VERSION = "v1"
FOLDER = Path(__file__).parent
NETWORK = "tests.golden.networks:golden"
CPU = ("--device", "cpu")
MODEL = ("--model", NETWORK)

RECIPE = f"""
name = "golden"
seed = 5
model.name = "{NETWORK}"
data = {{name = "fashion-mnist-subset", augment = "crop-flip"}}
method = %s
optimizer = %s
schedule = {{name = "cosine", warmup = "8it"}}
training = {{epochs = %d, batch_size = 128}}
"""
SGD = '{name = "sgd", learning_rate = 0.1, momentum = 0.9, nesterov = true, weight_decay = 5e-4}'
ADAMW = '{name = "adamw", learning_rate = 0.003, weight_decay = 0.01}'

WIDE = "tests.golden.networks:wide"
PLACE = Path("/", "tmp", "golden")
"""Where rewinding is done, because a rewound run says where its parent lies."""

ENCODINGS = ("auto", "gaps8", "gaps4", "bitmask", "dense")
ONNX: dict[str, tuple[str, ...]] = {
    **{
        f"{encoding}-{precision}": ("--encoding", encoding, "--precision", precision, "--opset", "20")
        for encoding in ENCODINGS
        for precision in ("fp32", "fp16", "int8")
    },
    "coo-fp32": ("--encoding", "coo", "--opset", "20"),
    **{
        f"gaps4-{precision}-opset21": ("--encoding", "gaps4", "--precision", precision, "--opset", "21")
        for precision in ("fp32", "fp16", "int8")
    },
    **{
        f"{encoding}-{precision}-half": (
            *("--encoding", encoding, "--precision", precision, "--compute", "fp16", "--opset", "20"),
        )
        for encoding in ("gaps8", "gaps4", "bitmask", "dense")
        for precision in ("fp16", "int8")
    },
    **{
        f"gaps4-{precision}-half-opset21": (
            *("--encoding", "gaps4", "--precision", precision, "--compute", "fp16", "--opset", "21"),
        )
        for precision in ("fp16", "int8")
    },
    "auto-fp32-compacted": ("--encoding", "auto", "--opset", "20", "--compact"),
}
"""The options of ``granet export --onnx`` for each file, by its name without ``.onnx``."""

ONNX_WIDE: dict[str, tuple[str, ...]] = {
    "wide-auto-fp32": ("--opset", "20"),
    "wide-auto-fp16": ("--precision", "fp16", "--opset", "20"),
    "wide-auto-int8": ("--precision", "int8", "--opset", "20"),
    "wide-auto-fp16-half": ("--precision", "fp16", "--compute", "fp16", "--opset", "20"),
    "wide-auto-int8-half": ("--precision", "int8", "--compute", "fp16", "--opset", "20"),
}
"""The same, of a network that has hundreds of zeros between two weights."""


# What is in a file


def answer(*arguments: object) -> Any:
    """What the command line prints with ``--json``."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run([str(argument) for argument in (*arguments, "--json")])
    if code:
        raise SystemExit(f"granet {' '.join(map(str, arguments))}: {code}")
    return json.loads(out.getvalue())


def digest(tensor: Tensor) -> str:
    """Type, shape and the SHA-256 of the elements in row-major order."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def digests(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same of every tensor; other values as they are."""
    return {name: digest(value) if isinstance(value, Tensor) else value for name, value in tensors.items()}


def state(file: Path) -> dict[str, Any]:
    """What ``granet.load_checkpoint`` gives."""
    found = granet.load_checkpoint(file)
    parts = ("weights", "masks", "buffers", "explored", "accumulators")
    return {
        "step": found.step,
        **{part: digests(getattr(found, part)) for part in parts},
        "optimizer": {name: digests(slots) for name, slots in found.optimizer.items()},
        "progress": found.progress,
    }


def masks_at(folder: Path, step: int, scratch: Path) -> dict[str, str]:
    """The SHA-256 of the masks of each layer after ``step``, as bools in row-major order, by ``granet history``."""
    file = scratch / "masks.safetensors"
    answer("history", folder, "--at", step, "--masks", file, "--overwrite")
    return {
        name: hashlib.sha256(mask.numpy().astype(np.bool_).tobytes(order="C")).hexdigest()
        for name, mask in load_file(file).items()
    }


def network_of(file: Path) -> str:
    """The name of the network of a checkpoint in this folder, which has to be confirmed to build it."""
    return WIDE if file.name == "wide.safetensors" else NETWORK


def replayed(folder: Path, scratch: Path) -> dict[str, Any]:
    """What ``granet history`` tells of a run, and the masks at its beginning and after every update."""
    told = answer("history", folder)
    steps = [told["before"]["step"], *(update["step"] for update in told["updates"])]
    return {"told": without_path(told), "masks": {str(step): masks_at(folder, step, scratch) for step in steps}}


def inflated(file: Path, scratch: Path) -> dict[str, str]:
    """Every weight in an ONNX file after ``granet inflate``: type, shape and SHA-256."""
    plain = scratch / "inflated.onnx"
    answer("inflate", file, "-o", plain, "--overwrite")
    found = {}
    for tensor in onnx.load(plain).graph.initializer:
        array = numpy_helper.to_array(tensor)
        found[tensor.name] = f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
    return found


def images() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Two made-up images, made without random numbers."""
    numbers = np.arange(2 * 28 * 28)
    return (numbers * numbers % 97 / 32 - 1.5).astype(np.float32).reshape(2, 1, 28, 28)


def logits(file: Path) -> list[list[float]]:
    """What ONNX Runtime answers to them."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (out,) = session.run(None, {given.name: images()})
    return np.asarray(out).tolist()


def compacted_logits(file: Path) -> list[list[float]]:
    """What a network that ``granet compact`` wrote answers to them, opened as its help says."""
    with torch.no_grad():
        return exporters.compaction.load(file, factory=NETWORK)(torch.from_numpy(images())).tolist()


def without_path(told: dict[str, Any]) -> dict[str, Any]:
    """A report without the name of the file, which says where it lies."""
    return {key: value for key, value in told.items() if key != "path"}


# Making them


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Makes ``folder`` the working directory, so that files name each other without saying where they lie."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def recipe(method: str, optimizer: str, epochs: int) -> Path:
    """A file with a recipe, beside the working directory."""
    file = Path(tempfile.mkdtemp()) / "golden.toml"
    file.write_text(RECIPE % (method, optimizer, epochs))
    return file


def stop_after_an_epoch(*arguments: object) -> None:
    """Trains in a process that gets a Ctrl-C as soon as a line tells of its first epoch."""
    command = [sys.executable, "-m", "granet_cli", *map(str, arguments), "--json"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored by what a shell started in the background
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[1])}
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
    assert process.returncode == 130, process.returncode


def granet_run(out: str) -> None:
    """Prunes from dense on and swaps; SGD with momentum; to its end."""
    method = '{name = "granet", density = 0.08, end = "1ep", interval = "15it"}'
    answer("train", "--recipe", recipe(method, SGD, 2), "--out", out, "--keep-every", "1ep", *CPU)


def rigl_run(out: str) -> None:
    """Sparse to sparse; AdamW; stopped in its second epoch and gone on with to its end."""
    file = recipe('{name = "rigl", density = 0.1, interval = "20it"}', ADAMW, 3)
    stop_after_an_epoch("train", "--recipe", file, "--out", out, *CPU)
    answer("train", "--resume", out, *CPU)


def snfs_run(out: str) -> None:
    """Sparse to sparse, sums up gradients; SGD with momentum; stopped in its second epoch for good."""
    file = recipe('{name = "snfs", density = 0.05, interval = "20it"}', SGD, 3)
    stop_after_an_epoch("train", "--recipe", file, "--out", out, *CPU)


def set_run(out: str) -> None:
    """Grows at random, with a checkpoint kept that lies between two updates."""
    file = recipe('{name = "set", density = 0.1, interval = "9it"}', SGD, 1)
    answer("train", "--recipe", file, "--out", out, "--keep-every", "40it", *CPU)


def rewound_run(out: str) -> None:
    """The granet run pruned in two rounds, with weights set back and swapping: lineage, a history that stores masks."""
    options = ("--mode", "weights", "--to", "1ep", "--density", 0.04, "--rounds", 2, "--regrow")
    interval = ("--set", "method.interval=15it")
    shutil.copytree("runs/granet", PLACE / "runs/granet")
    with inside(PLACE):
        answer("rewind", "runs/granet/last.safetensors", *options, *interval, "--out", out, *CPU, *MODEL)
    shutil.move(PLACE / out, out)
    shutil.rmtree(PLACE)


RUNS: dict[str, Callable[[str], None]] = {
    "granet": granet_run,
    "rigl-resumed": rigl_run,
    "snfs-stopped": snfs_run,
    "set": set_run,
    "granet-rewound": rewound_run,
}


def scrub(folder: Path) -> None:
    """Takes out of a run when and on which machine it was trained."""
    for file in folder.rglob("sessions.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        neutral = {"time": "2026-01-01T00:00:00Z", "processor": "machine", "cores": 2, "system": "system"}
        file.write_text("".join(json.dumps(line | neutral) + "\n" for line in lines))


def wide_weights() -> dict[str, Tensor]:
    """One weight in 500 of the large layer and one in 3 of the small one; multiples of 1/16, none of them random."""
    from tests.golden.networks import wide

    weights = {}
    for name, tensor in wide(1, 10).state_dict().items():
        numbers = torch.arange(tensor.numel())
        every = {"hidden.weight": 500, "fc.weight": 3}.get(name, 1)
        values = torch.where(numbers * 7 % every == 0, numbers % 31 / 16 - 0.9375, 0.0)
        weights[name] = values.reshape(tensor.shape)
    return weights


def runs_in(folder: Path) -> list[Path]:
    """The folders with a history, the rounds of a rewind among them."""
    return sorted(file.parent for file in (folder / "runs").rglob("history.bin"))


def import_(weights: Path, out: str, network: str) -> None:
    """Makes a checkpoint of a file, which notes how the file was called."""
    arguments = ("--model", network, "--data", "fashion-mnist-subset", "--infer-masks")
    target = Path.cwd() / out
    with inside(weights.parent):
        answer("import", weights.name, "-o", target, *arguments)


def build(expected: dict[str, Any]) -> None:
    """Makes what is missing, and adds what is found in it to ``expected``."""
    scratch = Path(tempfile.mkdtemp())
    for name, make in RUNS.items():
        if not Path("runs", name).exists():
            make(f"runs/{name}")
            scrub(Path("runs", name))
    best = Path("runs/granet/best.safetensors")
    if not Path("imported.safetensors").exists():
        answer("export", "--safetensors", best, "-o", scratch / "weights.safetensors")
        import_(scratch / "weights.safetensors", "imported.safetensors", NETWORK)
    if not Path("wide.safetensors").exists():
        save_file(wide_weights(), scratch / "wide-weights.safetensors")
        import_(scratch / "wide-weights.safetensors", "wide.safetensors", WIDE)
    if not Path("compacted.safetensors").exists():
        answer("compact", best, "-o", "compacted.safetensors", *MODEL)
    Path("onnx").mkdir(exist_ok=True)
    for checkpoint, network, files in ((best, NETWORK, ONNX), ("wide.safetensors", WIDE, ONNX_WIDE)):
        for name, options in files.items():
            if not Path("onnx", f"{name}.onnx").exists():
                answer("export", "--onnx", checkpoint, "-o", f"onnx/{name}.onnx", *options, "--model", network)

    for file in sorted(Path().rglob("*.safetensors")):
        if file.name != "compacted.safetensors" and str(file) not in expected["checkpoints"]:
            told = without_path(answer("inspect", file, "--model", network_of(file)))
            expected["checkpoints"][str(file)] = {"state": state(file), "told": told}
    for path in runs_in(Path()):
        if str(path) not in expected["histories"]:
            expected["histories"][str(path)] = replayed(path, scratch)
    for file in sorted(Path("onnx").glob("*.onnx")):
        if str(file) not in expected["onnx"]:
            told = without_path(answer("inspect", file))
            expected["onnx"][str(file)] = {"told": told, "weights": inflated(file, scratch), "logits": logits(file)}
    if "compacted.safetensors" not in expected["compacted"]:
        file = Path("compacted.safetensors")
        expected["compacted"][str(file)] = {"tensors": digests(load_file(file)), "logits": compacted_logits(file)}
    if str(best) not in expected["evaluated"]:
        expected["evaluated"][str(best)] = answer("eval", best, *CPU, *MODEL)
    for file in sorted(Path().rglob("*.*")):
        if file.is_file() and file.name != "expected.json":
            expected["files"].setdefault(str(file), hashlib.sha256(file.read_bytes()).hexdigest())


def as_text(expected: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with a line for each file."""
    kinds = []
    for kind, entries in sorted(expected.items()):
        lines = (f"{json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(entries.items()))
        kinds.append(f"{json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def main() -> None:
    torch.set_num_threads(1)
    folder = FOLDER / VERSION
    folder.mkdir(exist_ok=True)
    record = folder / "expected.json"
    kinds = ("files", "checkpoints", "histories", "onnx", "compacted", "evaluated")
    empty: dict[str, Any] = {kind: {} for kind in kinds}
    expected = json.loads(record.read_text()) if record.exists() else empty
    with inside(folder):
        build(expected)
    record.write_text(as_text(expected))


if __name__ == "__main__":
    main()
