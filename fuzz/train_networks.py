"""Train generated networks as users would, and check that each trains, or is refused with a sentence before it starts.

    python -m fuzz.train_networks [--count 2000] [--first 0] [--export-every 20]

Each trains two steps with a stop between them, resumes, and is inspected, planned and, every so often, exported.
Findings are errors other than GranetError, refusals once training has begun, states that resuming changes, and weights
outside their masks. Exits with 1 when there are any.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch

from fuzz.networks import BATCH, CHANNELS, CLASSES, SIZE, fails_later
from granet.analysis.inspection import inspect
from granet.checkpoint import load
from granet.data import Arrays, Dataset
from granet.errors import GranetError, Interrupted
from granet.recipe import Recipe
from granet.training import RunFolder, resume, train
from granet.training.placeholder_dataset import PlaceholderImages
from granet.training.plan import plan

CPU = torch.device("cpu")
SECONDS = 60
"""Time limit for a network."""


class Finding(AssertionError):  # noqa: N818  it is what a fuzzer finds
    """Something that a user should not meet."""


def recipe(number: int) -> Recipe:
    """Return the recipe that network ``number`` is trained with."""
    rng = random.Random(-1 - number)  # noqa: S311  repeatable, not secret
    method = rng.choice(
        (
            {"name": "granet", "density": 0.3, "interval": "1it", "start": "0it", "end": "2it"},
            {"name": "granet", "density": 0.3, "interval": "1it", "start": "0it", "end": "2it"},
            {"name": "rigl", "density": 0.4, "interval": "1it"},
            {"name": "set", "density": 0.4, "interval": "1it"},
            {"name": "gmp", "density": 0.4, "interval": "1it", "start": "0it", "end": "2it"},
            {"name": "static", "density": 0.5},
            {"name": "dense"},
        )
    )
    optimizer = rng.choice(({"name": "sgd", "momentum": 0.9}, {"name": "adamw"}, {"name": "rmsprop"}))
    training = {"epochs": 1, "batch_size": BATCH, "accumulate": rng.choice((1, 1, 1, 2))}
    if rng.random() < 0.1:
        training["precision"] = "bf16"
    if rng.random() < 0.1:
        training["memory_format"] = rng.choice(("contiguous", "channels_last"))
    return Recipe.from_dict(
        {
            "name": "generated",
            "seed": number,
            "model": {"name": f"fuzz.networks:made.n{number}"},
            "data": {"name": "image-folder", "image_size": SIZE},
            "method": method,
            "optimizer": {**optimizer, "learning_rate": 0.01},
            "schedule": {"name": "constant"},
            "training": training,
        }
    )


def images() -> Dataset:
    """Return two batches to train on, and a few images to evaluate on."""
    draws = torch.Generator().manual_seed(0)

    def part(count: int) -> Arrays:
        pixels = torch.randint(0, 256, (count, SIZE, SIZE, CHANNELS), generator=draws, dtype=torch.uint8)
        return Arrays(pixels.permute(0, 3, 1, 2), torch.arange(count) % CLASSES)

    return Dataset(
        name="generated",
        classes=tuple(f"class-{label}" for label in range(CLASSES)),
        channels=CHANNELS,
        image_size=SIZE,
        mean=(0.5,) * CHANNELS,
        std=(0.25,) * CHANNELS,
        train=part(2 * BATCH),
        validation=part(5),
        test=part(3),
    )


def judge(number: int, dataset: Dataset, folder: Path, *, export: bool = False) -> str:
    """Return what became of network ``number``: trained, or the sentence that refused it.

    Raises:
        Finding: see the module.
        Exception: any other error of the code.
    """
    asked, whole, stopped = recipe(number), RunFolder(folder / "whole"), RunFolder(folder / "stopped")
    factory = asked.model.name
    answers = iter((False, True))
    try:
        train(asked, stopped, CPU, dataset=dataset, stop=lambda: next(answers, False))
        raise Finding("it did not stop")
    except Interrupted:
        pass
    except GranetError as error:
        if (folder / "stopped").exists() and not fails_later(number):
            raise Finding(f"refused once training had begun: {error}") from error
        return _sentence(error)
    try:
        resume(stopped, CPU, dataset=dataset)
        train(asked, whole, CPU, dataset=dataset)
    except GranetError as error:
        if not fails_later(number) and "skipped" not in str(error) and "does not depend on" not in str(error):
            raise Finding(f"refused once training had begun: {error}") from error
        return f"in training: {_sentence(error)}"
    if stopped.last.read_bytes() != whole.last.read_bytes():
        raise Finding("resuming changed the result")
    last = load(whole.last)
    for name, mask in last.masks.items():
        if last.weights[name][~mask].any():
            raise Finding(f"a weight outside the mask of {name}")
    inspect(last, factory=factory)
    try:
        plan(asked, CPU, images=PlaceholderImages(count=2 * BATCH + 2, classes=CLASSES), steps=1)
        if export:
            _export(whole, factory, folder)
    except GranetError as error:
        return f"trained; {_sentence(error)}"
    return "trained"


def _export(run: RunFolder, factory: str, folder: Path) -> None:
    from exporters.onnx_export import ExportSettings
    from exporters.onnx_export import export as export_onnx

    export_onnx(load(run.last), folder / "network.onnx", ExportSettings(), factory=factory)


def _sentence(error: GranetError) -> str:
    if "bug in granet" in str(error):
        raise Finding(str(error)) from error
    return f"{type(error).__name__}: {error.what}"


def main() -> None:
    """Train the networks, and print how they end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    parser.add_argument("--export-every", type=int, default=20, help="export each network whose number it divides")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset, ends, found, longest = images(), Counter[str](), list[str](), 0.0
    begin = time.perf_counter()
    for number in range(arguments.first, arguments.first + arguments.count):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="granet-fuzz-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about the networks
            try:
                end = judge(number, dataset, Path(folder), export=number % arguments.export_every == 0)
            except Exception as error:  # everything that escapes is a finding
                end = f"FOUND {type(error).__name__}: {str(error)[:150]}"
                found.append(f"network {number}\n{traceback.format_exc()}")
                print(found[-1], file=sys.stderr, flush=True)
        longest = max(longest, time.perf_counter() - start)
        ends[end] += 1
        if (number + 1) % 100 == 0:
            print(f"... {number + 1}", file=sys.stderr, flush=True)
    for end, count in ends.most_common():
        print(f"{count:6} {end}")
    seconds = time.perf_counter() - begin
    print(f"{ends.total()} networks in {seconds:.0f} s, at most {longest:.1f} s each")
    if found:
        sys.exit(f"{len(found)} findings")


if __name__ == "__main__":
    main()
