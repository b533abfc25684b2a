"""Draws how density settled, layer by layer, in a run: python scripts/plot_run.py RUN -o FILE.svg"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from granet.checkpoint import load


def main() -> None:
    """Reads metrics.jsonl and the checkpoint beside it, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    epochs = [line for line in lines if line["event"] == "epoch"]
    checkpoint = load(arguments.run / "last.safetensors")
    sizes = {name: mask.numel() for name, mask in checkpoint.masks.items()}
    steps_per_epoch = checkpoint.progress["steps_per_epoch"]
    time = [0.0] + [update["step"] / steps_per_epoch for update in updates]

    mpl.rcParams |= {"font.size": 9, "svg.hashsalt": "granet", "svg.fonttype": "none", "axes.spines.right": False}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained")
    colors = mpl.colormaps["viridis"]
    for number, (name, size) in enumerate(sizes.items()):
        density = [100.0] + [100 * update["layers"][name] / size for update in updates]
        label = name.removesuffix(".weight")
        left.step(time, density, where="post", lw=1, color=colors(number / max(len(sizes) - 1, 1)), label=label)
    total = [100.0] + [100 * update["density"] for update in updates]
    left.step(time, total, where="post", color="black", lw=2.2, label="whole network")
    left.set(xlabel="epoch", ylabel="active weights, %", yscale="log", title="Density", xlim=(0, time[-1]))
    left.set_yticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    left.minorticks_off()
    left.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    done = [epoch["epoch"] for epoch in epochs]
    right.plot(done, [100 * epoch["accuracy"] for epoch in epochs], "o-", color="#666666", label="training (augmented)")
    right.plot(
        done, [100 * epoch["validation_accuracy"] for epoch in epochs], "s-", color="#0072b2", label="validation"
    )
    right.set(xlabel="epoch", ylabel="accuracy, %", title="Accuracy")
    right.legend(frameon=False, loc="lower right")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
