"""Whole trainings side by side, sparse and dense: images a second, with everything that a run does.

    python -m benchmarks.throughput [--recipe quickstart] [--epochs N] [--data FOLDER] [--rounds 1] [--json FILE]

Both are ``granet.training.train`` with the same recipe but for the method: updates, validation, checkpoints and metrics
are in the times. Each has a process to itself, as a training has, and they take turns of twenty steps, so that what
disturbs one disturbs the other; the first turn of each is left out. Turns change between the steps at which a method
updates every so many steps, so that what its helping thread does is in its own turn. The ratio of all times together
counts updates as often as they happen; the median over turns is what an undisturbed machine would show. ``--compare
noise`` has the dense training run against itself, which tells how much of a difference is noise; ``--compare compiled``
the sparse one, through torch.compile, against the sparse one as it is. Besides the clock there is the processor time of
each process, all its threads and their waiting for each other included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.measure import Measurement, heading, report, synchronize, write
from granet.recipe import Recipe
from granet.training import RunFolder, open_data, resolve_device, train

STEPS = 20
LIMIT = 0.99

Turn = tuple[float, float]
"""Seconds by the clock and of the processors."""


def train_in_turns(recipe: Recipe, folder: Path, data: Path | None, other: Connection) -> None:
    """In a process of its own: trains for ``STEPS`` steps whenever ``other`` says so, and tells it what they took."""
    dataset = open_data(recipe, directory=data)
    asked, begin = 0, (0.0, 0.0)

    def now() -> Turn:
        return time.perf_counter(), time.process_time()

    def stop() -> bool:
        nonlocal asked, begin
        asked += 1
        if asked % STEPS == STEPS // 2:
            synchronize()
            clock, processors = now()
            other.send((clock - begin[0], processors - begin[1]))
            other.recv()
            begin = now()
        return False

    other.recv()
    begin = now()
    train(recipe, RunFolder(folder), resolve_device("auto"), dataset=dataset, stop=stop)
    other.send(None)


def measure(recipes: Mapping[str, Recipe], folder: Path, data: Path | None) -> dict[str, list[Turn]]:
    """What each turn of each training took, the turns of a round at the same place; they begin in the order given."""
    context = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    processes = []
    for number, recipe in enumerate(recipes.values()):
        mine, theirs = context.Pipe()
        process = context.Process(target=train_in_turns, args=(recipe, folder / str(number), data, theirs), daemon=True)
        process.start()
        processes.append(process)
        theirs.close()
        ends.append(mine)
    turns: list[list[Turn]] = [[] for _ in ends]
    going = True
    while going:
        for end, taken in zip(ends, turns, strict=True):
            end.send("go")
            turn = end.recv()
            if turn is None:
                going = False  # the first to end ends it all
            else:
                taken.append(turn)
    for process in processes:  # the other one waits for a turn that does not come
        process.terminate()
        process.join()
    common = min(map(len, turns))
    return {name: taken[1:common] for name, taken in zip(recipes, turns, strict=True)}


def main() -> None:
    """Measures, prints, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--compare", default="sparse", choices=["sparse", "noise", "compiled"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = dict(assignment.split("=", 1) for assignment in arguments.set)
    if arguments.epochs is not None:
        settings["training.epochs"] = str(arguments.epochs)
    sparse = Recipe.load(arguments.recipe).override(settings)
    dense, _ = sparse.with_method("dense")
    sides = {
        "sparse": {"dense": dense, sparse.method.name: sparse},
        "noise": {"dense": dense, "dense again": dense},
        "compiled": {sparse.method.name: sparse, "compiled": sparse.override({"training.compile": "true"})},
    }[arguments.compare]
    names = list(sides)
    print(heading())
    taken: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            order = names if number % 2 == 0 else names[::-1]
            measured = measure({name: sides[name] for name in order}, Path(folder), arguments.data)
        for name, times in measured.items():
            taken[name] += times
    title = (
        f"{STEPS} steps of {sparse.name}: {sparse.model.name}, {sparse.data.name}, batch {sparse.training.batch_size}"
    )
    images = STEPS * sparse.training.batch_size * len(taken[names[0]])
    limit = f", limit >= {LIMIT}" if arguments.compare == "sparse" else ""
    rows = []
    for place, kind in enumerate(("by the clock", "processor time")):
        samples = {name: [turn[place] for turn in times] for name, times in taken.items()}
        measurement = Measurement(f"{title}, {kind}", samples, names[0])
        report(measurement)
        for name, seconds in samples.items():
            print(f"  {name:32} {images / sum(seconds):10,.0f} images/s")
        share, low, high = ratio_of_totals(samples[names[0]], samples[names[1]])
        print(f"  images/s, {names[1]} / {names[0]}: {share:.4f} ({low:.4f} to {high:.4f}){limit}")
        total = {"benchmark": f"{measurement.name}, all together", "model": names[1], "control": names[0]}
        rows += [*measurement.results(), {**total, "ratio": share, "ratio_low": low, "ratio_high": high, "level": 0.95}]
    if arguments.json:
        write(arguments.json, rows, recipe=sparse.as_dict())


def ratio_of_totals(control: Sequence[float], candidate: Sequence[float]) -> tuple[float, float, float]:
    """All of the control's time over all of the candidate's, and a 95 % bootstrap interval over pairs of turns."""
    pairs = np.array([control, candidate])
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (2000, pairs.shape[1]))
    ratios = pairs[0][drawn].sum(axis=1) / pairs[1][drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(pairs[0].sum() / pairs[1].sum()), float(low), float(high)


if __name__ == "__main__":
    main()
