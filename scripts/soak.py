"""Kills a run at random moments until it is through, and compares its end with one that was never disturbed.

    python -m scripts.soak [--kills 200] [--seed 0] [--folder DIR] [--subjects granet lr ...]

Each attempt is a process that goes on with the run and is killed (SIGKILL) after a random time, every other one at the
next moment at which a checkpoint is being written. When a run reaches its end, its files must be those of the
undisturbed run byte for byte, and the next run begins, with another method or another rewind in rounds, until there
were enough kills.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from granet.checkpoint import load_outline
from granet.recipe import Recipe
from granet.rewinding.plan import RewindRequest, base_recipe, plan
from granet.training import RunFolder, open_data, resume, train
from granet.training.rounds import resume_rewind
from tests.synthetic import write_image_folder

METHODS = ("granet", "rigl", "snfs", "gmp")
REWINDS = ("lr", "weights", "finetune")
CPU = torch.device("cpu")


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


def prepared(subject: str, folder: Path, images: Path, parent: RunFolder) -> Callable[[], object]:
    """Makes ``folder``, in which a run or a rewind is about to begin; what goes on with it."""
    if subject in METHODS:
        run = RunFolder(folder)
        run.create(recipe(subject, images))
        return lambda: resume(run, CPU)
    outline = load_outline(parent.last)
    asked = RewindRequest(checkpoint=parent.last, mode=subject, to="15it", density=0.05, rounds=3)  # type: ignore[arg-type]
    how = base_recipe(asked, outline)
    folder.mkdir()
    RunFolder(folder).rewind_file.write_text(plan(asked, how, outline, open_data(how)).to_toml())
    return lambda: resume_rewind(folder, CPU, watch=lambda _: None, stop=lambda: False)


def life(work: Callable[[], object], seconds: float | None, saving: Path | None = None) -> bool:
    """Runs ``work`` in a process of its own, killed after ``seconds``; whether it came to its end.

    With ``saving``, a folder, the kill waits for the next moment at which a checkpoint is being written below it.
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
        while saving is not None and not done and not in_a_save(saving):
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    else:
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a resume failed: the run was lost")
    return os.WIFEXITED(status)


def in_a_save(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when the process died."""
    return any(folder.rglob(".last.safetensors.tmp"))


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on the kills: all files but the times in metrics.jsonl."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    """Soaks; leaves with an error at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--subjects", nargs="+", default=[*METHODS, *REWINDS], choices=[*METHODS, *REWINDS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked, and threads do not survive that
    dice = random.Random(arguments.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        images = write_image_folder(folder / "images", per_class=27)
        parent = RunFolder(folder / "parent")
        life(lambda: train(recipe("granet", images), parent, CPU), None)
        undisturbed: dict[str, tuple[float, dict[str, bytes]]] = {}
        kills = runs = saves = 0
        for subject in itertools.cycle(arguments.subjects):
            place = folder / subject  # the same for both: rounds note where their parents lie
            if subject not in undisturbed:
                work = prepared(subject, place, images, parent)
                begin = time.monotonic()
                life(work, None)
                undisturbed[subject] = time.monotonic() - begin, contents(place)
            span, expected = undisturbed[subject]
            shutil.rmtree(place)
            work = prepared(subject, place, images, parent)
            through = False
            while not through:
                budget = dice.uniform(0.0, 1.2 * span) if kills < arguments.kills else None
                through = life(work, budget, place if kills % 2 else None)
                kills += not through
                saves += not through and in_a_save(place)
            runs += 1
            if contents(place) != expected:
                raise SystemExit(f"{subject}: the end differs from that of the undisturbed run, in {place}")
            print(f"{subject}: run {runs} through, {kills} kills so far, {saves} of them in a save", flush=True)
            if kills >= arguments.kills:
                break
    print(f"{kills} kills, {runs} runs, {saves} kills in the middle of writing: every end byte-identical")


if __name__ == "__main__":
    main()
