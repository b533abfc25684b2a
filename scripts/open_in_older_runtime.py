"""Do exported files open in the oldest ONNX Runtime that granet supports, and say the same there?

    python -m scripts.open_in_older_runtime [--version 1.26.0]

Trains a small network for an epoch, exports it in every encoding and precision, makes a throw-away environment with
that version of onnxruntime and nothing of granet, and there holds every file against its dense twin bit by bit, with
and without optimisations, and against what the present version answers. Downloads the package.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRESENT = "answers.npz"
FORMATS = {
    "auto": [],
    **{name: ["--encoding", name] for name in ("gaps8", "gaps4", "bitmask", "coo")},
    "fp16": ["--precision", "fp16"],
    "int8": ["--precision", "int8"],
    "compute-fp16": ["--compute", "fp16"],
    "opset-18": ["--opset", "18"],
    "opset-18-gaps4": ["--opset", "18", "--encoding", "gaps4"],
}

# Runs in either environment: answers of every file at three levels; the first environment writes them down.
LOOK = """
import sys, pathlib, numpy, onnxruntime
folder, written = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
levels = onnxruntime.GraphOptimizationLevel
images = numpy.random.default_rng(0).normal(size=(5, 1, 28, 28)).astype(numpy.float32)
answers = {}
for path in sorted(folder.glob("*.onnx")):
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        answers[f"{path.name} {level.name}"] = session.run(None, {"images": images})[0]
for name, answer in answers.items():
    twin = answers.get(name.replace(".onnx", ".dense.onnx"))
    assert ".dense." in name or answer.tobytes() == twin.tobytes(), f"{name} is not its dense twin"
if written.exists():
    before = numpy.load(written)
    assert set(before.files) == set(answers), "other files"
    worst = max(float(numpy.abs(before[n] - a).max() / numpy.abs(before[n]).max()) for n, a in answers.items())
    print(f"onnxruntime {onnxruntime.__version__}: {len(answers)} sessions, twins bit by bit, "
          f"largest difference to the present version {worst:.1e} of the largest output")
    assert worst < 1e-2, "it says something else"
else:
    numpy.savez(written, **answers)
"""


def granet(*arguments: str) -> None:
    """A command of granet, in this environment."""
    subprocess.run([sys.executable, "-m", "granet_cli", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Makes the files and the environment, and looks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="1.26.0", help="of onnxruntime")
    version = parser.parse_args().version
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = folder / "files"
        files.mkdir()
        granet("train", "--epochs", "1", "--out", str(folder / "run"), "--device", "cpu")
        for label, options in FORMATS.items():
            target = str(files / f"{label}.onnx")
            granet("export", "--onnx", str(folder / "run" / "best.safetensors"), "-o", target, "--twin", *options)
        older = folder / "environment"
        venv.create(older, with_pip=True)
        pip = [older / "bin" / "python", "-m", "pip", "install", "--quiet", f"onnxruntime=={version}"]
        subprocess.run(pip, check=True)
        for python in (sys.executable, older / "bin" / "python"):
            subprocess.run([python, "-c", LOOK, files, folder / PRESENT], check=True)


if __name__ == "__main__":
    main()
