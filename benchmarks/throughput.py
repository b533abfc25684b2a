"""Whole trainings side by side, sparse and dense: images a second, with everything that a run does.

    python -m benchmarks.throughput [--recipe quickstart] [--epochs N] [--data FOLDER] [--rounds 1] [--json FILE]

Both are ``granet.training.train`` with the same recipe but for the method: updates, validation, checkpoints and metrics
are in the times. They run in one process and take turns of twenty steps, so that what disturbs one disturbs the other;
the first turn of each is left out. The ratio of all times together counts updates as often as they happen; the median
over turns is what an undisturbed machine would show. ``--compare noise`` has the dense training run against itself,
which tells how much of a difference is noise; ``--compare compiled`` the sparse one, through torch.compile, against the
sparse one as it is. Besides the clock there is the processor time of the threads that train, which says more where
others use the machine too; that of the threads that help them is not in it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.measure import Measurement, heading, report, synchronize, write
from granet.recipe import Recipe
from granet.training import RunFolder, open_data, resolve_device, train

STEPS = 20
LIMIT = 0.99


class Turns:
    """Lets threads compute one at a time, in order, and notes what each turn took, by clock and processor."""

    def __init__(self, count: int) -> None:
        self.times: list[list[tuple[float, float]]] = [[] for _ in range(count)]
        self._locks = [threading.Semaphore(0) for _ in range(count)]
        self._ended = [False] * count
        self._locks[0].release()

    @contextmanager
    def of(self, number: int) -> Iterator[Callable[[], bool]]:
        """Yields what a training asks after each step; it waits there for the others after every ``STEPS`` of them."""
        self._locks[number].acquire()
        asked, begin, busy = 0, time.perf_counter(), time.thread_time()

        def stop() -> bool:
            nonlocal asked, begin, busy
            asked += 1
            if asked % STEPS == 0:
                synchronize()
                self.times[number].append((time.perf_counter() - begin, time.thread_time() - busy))
                self._next(number)
                self._locks[number].acquire()
                begin, busy = time.perf_counter(), time.thread_time()
            return False

        try:
            yield stop
        finally:
            self._ended[number] = True
            self._next(number)

    def _next(self, number: int) -> None:
        """Whose turn it is after ``number``: the next one that has not ended, perhaps itself."""
        count = len(self._locks)
        order = [(number + ahead) % count for ahead in range(1, count + 1)]
        for following in order:
            if not self._ended[following]:
                self._locks[following].release()
                return


def measure(recipes: Mapping[str, Recipe], folder: Path, data: Path | None) -> dict[str, list[tuple[float, float]]]:
    """What each turn of each training took, the turns of a round at the same place; they begin in the order given."""
    device = resolve_device("auto")
    datasets = {name: open_data(recipe, directory=data) for name, recipe in recipes.items()}
    turns = Turns(len(recipes))
    errors: list[Exception] = []

    def run(number: int, name: str) -> None:
        with turns.of(number) as stop:
            try:
                train(recipes[name], RunFolder(folder / str(number)), device, dataset=datasets[name], stop=stop)
            except Exception as error:  # to be raised where somebody waits for it
                errors.append(error)

    threads = [threading.Thread(target=run, args=place) for place in enumerate(recipes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    common = min(map(len, turns.times))
    return {name: times[1:common] for name, times in zip(recipes, turns.times, strict=True)}


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
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
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
        for name, times in samples.items():
            print(f"  {name:32} {images / sum(times):10,.0f} images/s")
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
