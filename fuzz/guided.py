"""Fuzz checkpoints guided by coverage: atheris keeps files that reach new code and mutates them further.

    pip install -c constraints.txt atheris
    python -m fuzz.guided [-max_total_time=600] [CORPUS_FOLDER]

All options are libFuzzer's. Without a folder the corpus is a temporary copy of the golden checkpoints. Inputs that
are whole files are mutated as in ``fuzz.mutations``, damaged or forged; the rest by libFuzzer.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["granet.checkpoint", "granet.masks.codec"]):
    import granet.checkpoint  # noqa: F401  instrumented while it is imported

from fuzz.judge import judge
from fuzz.mutate import CORPUS, SOUND
from fuzz.mutations import damage, forge

FOLDER = Path(tempfile.mkdtemp(prefix="granet-guided-"))


def one_input(data: bytes) -> None:
    """Judge a file; whatever it raises is a finding."""
    path = FOLDER / "input.safetensors"
    path.write_bytes(data)
    judge(path, SOUND, forged=True)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a file broken by ``fuzz.mutations`` where it is sound enough for that, else by libFuzzer."""
    rng = random.Random(seed)  # noqa: S311  repeatable, not secret
    donor = rng.choice(SOUND)
    try:
        changed = (forge if rng.random() < 0.7 else damage)(rng, data, donor)[1]
    except Exception:  # not a file that can be taken apart
        changed = atheris.Mutate(data, len(data)) if data else donor
    return changed[:max_size]


def main() -> None:
    """Run until libFuzzer is stopped or finds something."""
    arguments = sys.argv
    if not any(not argument.startswith("-") for argument in arguments[1:]):
        corpus = FOLDER / "corpus"
        shutil.copytree(CORPUS, corpus, ignore=lambda _, names: [n for n in names if not n.endswith(".safetensors")])
        arguments = [*arguments, "-max_len=65536", f"-artifact_prefix={FOLDER}/", str(corpus)]
    atheris.Setup(arguments, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
