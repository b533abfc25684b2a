"""Kills a run at random moments until it is through, and compares its end with one that was never disturbed.

    python -m scripts.soak [--kills 200] [--seed 0] [--folder DIR]

Each attempt is a process that goes on with the run and is killed (SIGKILL) after a random time, every other one at the
next moment at which a checkpoint is being written. When a run reaches its end, its files must be those of the
undisturbed run byte for byte, and the next run begins, with another method, until there were enough kills.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from granet.recipe import Recipe
from granet.training import RunFolder, resume, train
from tests.synthetic import write_image_folder

METHODS = ("granet", "rigl", "snfs", "gmp")


def recipe(method: str, images: Path) -> Recipe:
    """Small enough for many lives: 24 steps, a save at every other one, an update at every third."""
    base = f"""
        name = "soak"
        model.name = "resnet8"
        data = {{name = "image-folder", directory = "{images}", augment = "crop-flip"}}
        method = {{name = "{method}", density = 0.2, interval = "3it"}}
        optimizer = {{name = "sgd", learning_rate = 0.01, momentum = 0.9}}
        schedule.name = "cosine"
        training = {{epochs = 4, batch_size = 12, save_every = "2it", keep_every = "5it", keep_last = 2}}
    """
    return Recipe.from_toml(base, where="soak")


def life(work: Callable[[], object], seconds: float | None, saving: Path | None = None) -> bool:
    """Runs ``work`` in a process of its own, killed after ``seconds``; whether it came to its end.

    With ``saving``, a temporary file, the kill waits for the next moment at which that file is there.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # the parent reports it
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        done, status = os.waitpid(child, os.WNOHANG)
        while saving is not None and not done and not saving.exists():
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    else:
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a resume failed: the run was lost")
    return os.WIFEXITED(status)


def contents(folder: RunFolder) -> dict[str, bytes]:
    """Everything that must not depend on the kills: all files but the times in metrics.jsonl."""
    return {path.name: path.read_bytes() for path in sorted(folder.path.iterdir()) if path.suffix != ".jsonl"}


def main() -> None:
    """Soaks; leaves with an error at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked, and threads do not survive that
    dice, cpu = random.Random(arguments.seed), torch.device("cpu")  # noqa: S311
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        images = write_image_folder(folder / "images", per_class=27)
        undisturbed: dict[str, dict[str, bytes]] = {}
        kills = runs = saves = 0
        for method in itertools.cycle(METHODS):
            if method not in undisturbed:
                whole = RunFolder(folder / f"{method}-undisturbed")
                begin = time.monotonic()
                life(lambda m=method, w=whole: train(recipe(m, images), w, cpu), None)
                span = time.monotonic() - begin
                undisturbed[method] = contents(whole)
            disturbed = RunFolder(folder / f"{method}-{runs}")
            disturbed.create(recipe(method, images))
            through = False
            while not through:
                budget = dice.uniform(0.0, 1.2 * span) if kills < arguments.kills else None
                temporary_file = disturbed.path / ".last.safetensors.tmp"
                aimed = temporary_file if kills % 2 else None
                through = life(lambda d=disturbed: resume(d, cpu), budget, aimed)
                kills += not through
                saves += not through and temporary_file.exists()
            runs += 1
            if contents(disturbed) != undisturbed[method]:
                raise SystemExit(f"{method}: the end differs from the undisturbed run, in {disturbed.path}")
            print(f"{method}: run {runs} through, {kills} kills so far, {saves} of them in a save", flush=True)
            if kills >= arguments.kills:
                break
    print(f"{kills} kills, {runs} runs, {saves} kills in the middle of writing: every end byte-identical")


if __name__ == "__main__":
    main()
