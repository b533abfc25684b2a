"""Learning-rate rewinding, weight rewinding and fine-tuning at the same retraining cost (Renda et al. 2020).

python -m benchmarks.rewinding [--data DIR] [--model NAME] [--epochs 12] [--densities 0.1 0.05] [--to 0.1] [--seeds 3]
    [--set KEY=VALUE ...] [--json FILE]

A dense network is trained, pruned in one go to each density by global magnitude, and retrained in each of the three
ways for as long as from ``--to`` to the end. Without ``--data`` the images are those that come with granet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import environment, write
from granet.checkpoint import load_outline
from granet.recipe import Recipe
from granet.rewinding.plan import Mode, RewindRequest, base_recipe, plan
from granet.training import RunFolder, open_data, resolve_device, train
from granet.training.rounds import rewind

MODES: tuple[Mode, ...] = ("lr", "weights", "finetune")


def base(arguments: argparse.Namespace) -> Recipe:
    """The dense training, its learning rate divided by ten at a half and at three quarters, as in the paper."""
    epochs = arguments.epochs
    settings: dict[str, object] = {
        "name": "rewinding",
        "description": "",
        "model.name": arguments.model,
        "schedule.name": "multistep",
        "schedule.milestones": (f"{epochs / 2}ep", f"{3 * epochs / 4}ep"),
        "schedule.gamma": 0.1,
        "schedule.warmup": "0ep",
        "schedule.final_learning_rate": None,
        "training.epochs": epochs,
        "training.keep_every": f"{arguments.to * epochs:.6f}ep",
    }
    if arguments.data is not None:
        settings |= {"data.name": "image-folder", "data.directory": str(arguments.data.absolute())}
    settings |= dict(assignment.split("=", 1) for assignment in arguments.set)
    return Recipe.load("quickstart").with_method("dense")[0].override(settings)


def measure(recipe: Recipe, densities: Sequence[float], to: float, seeds: int) -> Iterator[dict[str, object]]:
    """One entry for the dense network of each seed, and one for each density and mode."""
    device = resolve_device("auto")
    for seed in range(seeds):
        seeded = recipe.override({"seed": seed})
        dataset = open_data(seeded)
        with tempfile.TemporaryDirectory() as root:
            parent = RunFolder(Path(root) / "dense")
            dense = train(seeded, parent, device, dataset=dataset)
            steps = load_outline(parent.last).step
            yield {"seed": seed, "mode": "dense", "density": 1.0, "accuracy": dense.accuracy, "steps": steps}
            for density in densities:
                for mode in MODES:
                    asked = RewindRequest(checkpoint=parent.last, mode=mode, to=str(to), density=density)
                    outline = load_outline(parent.last)
                    planned = plan(asked, base_recipe(asked, outline), outline, dataset)
                    assert planned.rewind is not None  # noqa: S101  so ``plan`` made it
                    rows = rewind(
                        planned,
                        Path(root) / f"{mode}-{density}",
                        device,
                        dataset=dataset,
                        watch=lambda _: None,
                        stop=lambda: False,
                    )
                    yield {
                        "seed": seed,
                        "mode": mode,
                        "density": rows[-1].density,
                        "asked": density,
                        "accuracy": rows[-1].test_accuracy,
                        "steps": planned.rewind.steps,
                    }


def main() -> None:
    """Measures, prints a Markdown table, and saves when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--to", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe, begin, entries = base(arguments), time.perf_counter(), []
    print(environment())
    for entry in measure(recipe, arguments.densities, arguments.to, arguments.seeds):
        entries.append(entry)
        print(f"# {time.perf_counter() - begin:6.0f} s  {entry}", flush=True)
    title = f"{recipe.model.name}, {recipe.data.name}, {arguments.epochs} epochs, {arguments.seeds} seeds"
    print(f"\n| {title} | density | test accuracy | retraining steps |")
    print("|---|---|---|---|")
    for density in (None, *arguments.densities):
        for mode in ("dense",) if density is None else MODES:
            chosen = [e for e in entries if e["mode"] == mode and e.get("asked") == density]
            accuracy = 100 * np.array([e["accuracy"] for e in chosen])
            deviation = accuracy.std(ddof=1) if len(accuracy) > 1 else float("nan")
            steps = "-" if density is None else chosen[0]["steps"]
            print(f"| {mode} | {chosen[0]['density']:.4f} | {accuracy.mean():.2f} ± {deviation:.2f} % | {steps} |")
    if arguments.json:
        write(arguments.json, entries, recipe=recipe.as_dict())


if __name__ == "__main__":
    main()
