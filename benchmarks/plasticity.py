"""Pruning plasticity over a training with one drop of the learning rate (Liu et al. 2021, section 3).

python -m benchmarks.plasticity [--data DIR] [--images 600] [--model NAME] [--epochs 16] [--drop 10] [--every 4]
    [--train 2] [--rates 0.5 0.9 0.98] [--kinds none pruned swap] [--seeds 3] [--set KEY=VALUE ...] [--out DIR]
    [--plot FILE] [--json FILE]

A dense network is trained for each seed, and every checkpoint that it kept on its way is put through what ``granet
plasticity`` does. ``--data`` is an image folder, of which ``--images`` of every class are taken, a third of them to
validate; without it the images are those that come with granet. With ``--out``, whoever stops it goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import heading, write
from granet.analysis.comparison import Statistic
from granet.plasticity import experiment
from granet.plasticity.grid import GridSettings, plan
from granet.plasticity.report import PlasticityReport
from granet.plasticity.results import Cell
from granet.recipe import Recipe
from granet.training import RunFolder, resolve_device, resume, train
from granet_cli.plasticity.plot import draw
from granet_cli.plasticity.view import KINDS


def base(arguments: argparse.Namespace, images: Path | None) -> Recipe:
    """The dense training, its learning rate divided by ten once."""
    settings: dict[str, object] = {
        "name": "plasticity",
        "description": "",
        "model.name": arguments.model,
        "schedule.name": "multistep",
        "schedule.milestones": (f"{arguments.drop}ep",),
        "schedule.gamma": 0.1,
        "schedule.warmup": "0ep",
        "schedule.final_learning_rate": None,
        "training.epochs": arguments.epochs,
        "training.keep_every": f"{arguments.every}ep",
        "data.validation": 1 / 3,
    }
    if images is not None:
        settings |= {"data.name": "image-folder", "data.directory": str(images.absolute())}
    settings |= dict(assignment.split("=", 1) for assignment in arguments.set)
    return Recipe.load("quickstart").with_method("dense")[0].override(settings)


def some(images: Path, count: int, into: Path) -> Path:
    """A folder of the first ``count`` images of every class; of the test images, which nothing here needs, few."""
    for split, number in (("train", count), ("test", 10)):
        for folder in sorted(path for path in (images / split).iterdir() if path.is_dir()):
            target = into / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:number]:
                if not (target / file.name).exists():
                    shutil.copy(file, target / file.name)
    return into


def measure(arguments: argparse.Namespace, root: Path) -> PlasticityReport:
    """Trains the networks that lack, and measures the cells that do."""
    device, begin = resolve_device("auto"), time.perf_counter()

    def say(text: str) -> None:
        print(f"# {time.perf_counter() - begin:6.0f} s  {text}", flush=True)

    def told(event: experiment.Event) -> None:
        if isinstance(event, experiment.CellEnded):
            cell = event.cell
            after = "diverged" if cell.after is None else f"{cell.after:.4f}"
            say(
                f"{event.number}/{event.total}: seed {cell.seed}, epoch {cell.epoch:g}, rate {cell.rate:g}, "
                f"{cell.regeneration}: {cell.before:.4f}, {cell.pruned:.4f}, {after}"
            )

    images = None if arguments.data is None else some(arguments.data, arguments.images, root / "images")
    recipe = base(arguments, images)
    kept: list[str] = []
    for seed in range(arguments.seeds):
        folder = RunFolder(root / f"seed-{seed}")
        result = (
            resume(folder, device) if folder.holds_run() else train(recipe.override({"seed": seed}), folder, device)
        )
        say(f"seed {seed}: trained, test accuracy {result.accuracy:.4f}")
        kept += [str(folder.kept(step)) for step in folder.kept_steps() if step]  # not the one before training
    grid = plan(kept, GridSettings(epochs=arguments.train), arguments.rates, arguments.kinds)
    return experiment.run(grid, device, watch=told)


def over_seeds(cells: Sequence[Cell], figure: Callable[[Sequence[Cell]], float]) -> Statistic:
    """A figure of the cells of each seed, in percentage points."""
    seeds = sorted({cell.seed for cell in cells})
    found = Statistic.of(100 * figure([cell for cell in cells if cell.seed == seed]) for seed in seeds)
    assert found is not None  # noqa: S101  there are cells
    return found


def mean_plasticity(cells: Sequence[Cell], *, late: bool, drop: float) -> float:
    """Over the checkpoints after the drop of the learning rate, or over those before it."""
    chosen = [cell.plasticity for cell in cells if (cell.epoch > drop) == late and cell.plasticity is not None]
    return float(np.mean(chosen))


def change(cells: Sequence[Cell], *, drop: float) -> float:
    """What the drop of the learning rate does to mean plasticity."""
    return mean_plasticity(cells, late=True, drop=drop) - mean_plasticity(cells, late=False, drop=drop)


def mean_gain(bare: Mapping[tuple[str, float], Cell], cells: Sequence[Cell], *, late: bool, drop: float) -> float:
    """Accuracy afterwards minus that of the same checkpoint without regeneration, over checkpoints likewise."""
    pairs = [(cell.after, bare[cell.checkpoint, cell.rate].after) for cell in cells if (cell.epoch > drop) == late]
    return float(np.mean([mine - other for mine, other in pairs if mine is not None and other is not None]))


def written(statistic: Statistic | None) -> str:
    """Mean and deviation."""
    if statistic is None:
        return "diverged"
    return f"{statistic.mean:+.1f}" + ("" if statistic.deviation is None else f" ± {statistic.deviation:.1f}")


def scaled(statistic: Statistic | None) -> Statistic | None:
    """A share in percentage points."""
    if statistic is None:
        return None
    deviation = None if statistic.deviation is None else 100 * statistic.deviation
    return Statistic(mean=100 * statistic.mean, deviation=deviation, count=statistic.count)


def tables(report: PlasticityReport, drop: float) -> None:
    """Prints what was measured, and the two findings, as Markdown."""
    rates = list(dict.fromkeys(cell.rate for cell in report.cells))
    heads = " | ".join(f"{100 * rate:g} %" for rate in rates)
    for kind in dict.fromkeys(curve.regeneration for curve in report.curves):
        mine = [curve for curve in report.curves if curve.regeneration == kind]
        print(f"\n| {KINDS[kind]}: epoch | learning rate | before | {heads} |")
        print("|---|---|---|" + "---|" * len(rates))
        for row in zip(*(curve.points for curve in mine), strict=True):
            before = scaled(row[0].before)
            assert before is not None  # noqa: S101  every checkpoint was evaluated
            cells = " | ".join(written(scaled(point.plasticity)) for point in row)
            share = f"{written(before)[1:]} %"
            print(f"| {row[0].epoch:g} | {row[0].learning_rate:g} | {share} | {cells} |")
    print(f"\n| mean plasticity | {heads} |")
    print("|---|" + "---|" * len(rates))
    for kind in dict.fromkeys(cell.regeneration for cell in report.cells):
        chosen = [[c for c in report.cells if (c.rate, c.regeneration) == (rate, kind)] for rate in rates]
        for name, late in (("before the drop", False), ("after it", True)):
            means = [over_seeds(cells, partial(mean_plasticity, late=late, drop=drop)) for cells in chosen]
            print(f"| {KINDS[kind]}, {name} | {' | '.join(map(written, means))} |")
        changes = [over_seeds(cells, partial(change, drop=drop)) for cells in chosen]
        print(f"| {KINDS[kind]}, change | {' | '.join(map(written, changes))} |")
    bare = {(cell.checkpoint, cell.rate): cell for cell in report.cells if cell.regeneration == "none"}
    kinds = dict.fromkeys(cell.regeneration for cell in report.cells if cell.regeneration != "none")
    if not bare or not kinds:
        return
    print(f"\n| accuracy gained by regeneration | {heads} |")
    print("|---|" + "---|" * len(rates))
    for kind in kinds:
        chosen = [[c for c in report.cells if (c.rate, c.regeneration) == (rate, kind)] for rate in rates]
        for name, late in (("before the drop", False), ("after it", True)):
            gains = [over_seeds(cells, partial(mean_gain, bare, late=late, drop=drop)) for cells in chosen]
            print(f"| {KINDS[kind]}, {name} | {' | '.join(map(written, gains))} |")


def main() -> None:
    """Measures, prints Markdown tables, and saves and draws when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--drop", type=float, default=10)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--train", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 0.9, 0.98])
    parser.add_argument("--kinds", nargs="+", default=["none", "pruned", "swap"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(heading(), flush=True)
    with ExitStack() as stack:
        root = arguments.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = measure(arguments, root)
    tables(report, arguments.drop)
    if arguments.plot:
        draw(arguments.plot, report)
    if arguments.json:
        write(arguments.json, report.as_json()["cells"], recipe=report.recipe.as_dict())


if __name__ == "__main__":
    main()
