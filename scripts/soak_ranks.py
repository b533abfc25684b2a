"""Kills a random rank of a run at random moments until it is through, and compares its end with an undisturbed one.

    python -m scripts.soak_ranks [--kills 20] [--ranks 4] [--seed 0] [--folder DIR]

The ranks are processes of ``torchrun --max-restarts``, which starts all of them anew after each kill, by the same
command; nothing else helps. A kill (SIGKILL) comes a random time after the first rank has saved something again. The
files of the run must be those of the undisturbed one byte for byte, and the time until it is under way again is told.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from granet.recipe import Recipe
from tests.synthetic import write_image_folder


def recipe(images: Path, epochs: int) -> Recipe:
    """Small, with a save at every other step, an update at every third, and batch norms over all ranks."""
    return Recipe.from_toml(
        f"""
        name = "soak"
        model.name = "resnet8"
        data = {{name = "image-folder", directory = "{images}", augment = "crop-flip"}}
        method = {{name = "granet", density = 0.2, interval = "3it", end = "30it"}}
        optimizer = {{name = "sgd", learning_rate = 0.01, momentum = 0.9}}
        schedule.name = "cosine"
        training = {{epochs = {epochs}, batch_size = 12, save_every = "2it", keep_every = "50it"}}
        """,
        where="soak",
    )


def started(ranks: int, restarts: int, file: Path, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """torchrun, at work."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [f"--max-restarts={restarts}", "-m", "granet_cli", "train"]
    command += ["--recipe", str(file), "--out", str(folder), "--device", "cpu", "--json"]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})


def processes(agent: int) -> dict[int, int]:
    """The process of each rank that ``agent`` has started."""
    found: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal():
            continue
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            names = dict(
                line.partition("=")[::2] for line in (place / "environ").read_text(errors="replace").split("\0")
            )
        except (OSError, ValueError, IndexError):
            continue
        if parent == agent and "RANK" in names:
            found[int(names["RANK"])] = int(place.name)
    return found


def stamp(file: Path) -> int:
    """When ``file`` was written; 0 when it is not there."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on the kills: all files but the times in metrics.jsonl."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    """Soaks; leaves with an error when the run is lost, or its end is another one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100, help="of 18 steps each: enough for all the kills")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        images = write_image_folder(folder / "images", per_class=80)
        file = folder / "soak.toml"
        file.write_text(recipe(images, arguments.epochs).to_toml())

        undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
        if started(arguments.ranks, 0, file, undisturbed, folder / "undisturbed.log").wait():
            raise SystemExit((folder / "undisturbed.log").read_text())

        log = folder / "disturbed.log"
        agent = started(arguments.ranks, arguments.kills, file, disturbed, log)
        last, seen, waits = disturbed / "last.safetensors", 0, []
        kills: dict[int, int] = dict.fromkeys(range(arguments.ranks), 0)
        begin = time.monotonic()
        while sum(kills.values()) < arguments.kills:
            if agent.poll() is not None:
                raise SystemExit(f"over after {sum(kills.values())} kills:\n{log.read_text()[-3000:]}")
            if stamp(last) == seen:
                time.sleep(0.01)
                continue
            waits.append(time.monotonic() - begin)
            time.sleep(dice.uniform(0.0, 0.6))
            rank = dice.randrange(arguments.ranks)
            victim = processes(agent.pid).get(rank)
            if victim is None:
                continue
            os.kill(victim, signal.SIGKILL)
            begin = time.monotonic()
            kills[rank] += 1
            time.sleep(0.5)  # what the first rank was writing it may still finish
            seen = stamp(last)
        code = agent.wait()
        if code:
            raise SystemExit(f"the run was lost (exit code {code}):\n{log.read_text()[-3000:]}")
        if contents(disturbed) != contents(undisturbed):
            raise SystemExit("the end differs from that of the undisturbed run")
        share = ", ".join(f"rank {rank} {count} times" for rank, count in kills.items())
        print(
            f"{sum(kills.values())} kills of {arguments.ranks} ranks ({share}): the run restarted by itself and its "
            f"end is byte-identical; under way again after {statistics.median(waits[1:]):.1f} s, at most "
            f"{max(waits[1:]):.1f} s"
        )


if __name__ == "__main__":
    main()
