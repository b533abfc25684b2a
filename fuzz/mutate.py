"""Break real checkpoints at random, and check that each is refused or sound.

    python -m fuzz.mutate [--count 100000] [--seed 0] [--jobs 1]

Half of the files are damaged, with their hashes as they were, and half forged, with valid hashes. Each
must end in CheckpointError or a sound checkpoint, within ten seconds. Exits with 1 when one does not; the file is then
kept, and named.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import torch

from fuzz.judge import judge
from fuzz.mutations import damage, forge

CORPUS = Path(__file__).parents[1] / "tests" / "golden_checkpoints"
SOUND = [path.read_bytes() for path in sorted(CORPUS.glob("*.safetensors"))]
"""The files to break, and the only ones that may come out unchanged."""

SECONDS = 10
"""Time limit for a file."""


def run(seed: int, count: int, folder: Path) -> tuple[Counter[tuple[str, str]], float, list[str]]:
    """Break ``count`` files; return counts by mutation and result, the longest time in seconds, and the findings."""
    torch.set_num_threads(1)
    rng = random.Random(seed)  # noqa: S311  repeatable, not secret
    path = folder / f"{seed}.safetensors"
    ends: Counter[tuple[str, str]] = Counter()
    longest, found = 0.0, []
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(count):
        forged = number % 2 == 1
        way, data = (forge if forged else damage)(rng, rng.choice(SOUND), rng.choice(SOUND))
        path.write_bytes(data)
        begin = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            end = judge(path, SOUND, forged=forged)
        except Exception:  # everything that escapes is a finding
            end = "FOUND"
            kept = folder / f"found-{seed}-{number}.safetensors"
            kept.write_bytes(data)
            found.append(f"{kept} ({way})\n{traceback.format_exc()}")
        finally:
            signal.alarm(0)
        longest = max(longest, time.perf_counter() - begin)
        ends[way, end] += 1
    path.unlink(missing_ok=True)
    return ends, longest, found


def main() -> None:
    """Break files, judge them and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its own seed")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="granet-fuzz-"))
    shares = [
        (arguments.seed + job, arguments.count // arguments.jobs + (job < arguments.count % arguments.jobs), folder)
        for job in range(arguments.jobs)
    ]
    begin = time.perf_counter()
    if arguments.jobs == 1:
        results = [run(*shares[0])]
    else:
        with get_context("spawn").Pool(arguments.jobs) as pool:
            results = pool.starmap(run, shares)
    ends = sum((ends for ends, _, _ in results), Counter())
    kinds = sorted({end for _, end in ends})
    print(f"{'':14}" + "".join(f"{kind:>12}" for kind in kinds))
    for way in sorted({way for way, _ in ends}):
        print(f"{way:14}" + "".join(f"{ends[way, kind]:12}" for kind in kinds))
    print(f"{'all':14}" + "".join(f"{sum(n for (_, end), n in ends.items() if end == kind):12}" for kind in kinds))
    print(
        f"{ends.total()} files in {time.perf_counter() - begin:.0f} s, at most {max(r[1] for r in results):.2f} s each"
    )
    found = [line for _, _, lines in results for line in lines]
    if found:
        sys.exit("\n".join([*found[:5], f"{len(found)} findings, kept in {folder}"]))
    folder.rmdir()


def _too_long(*_: object) -> None:
    raise TimeoutError(f"a file took longer than {SECONDS} s")


if __name__ == "__main__":
    main()
