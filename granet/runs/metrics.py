"""How fast a run went, from the lines that it noted in metrics.jsonl.

They are the one thing that a report takes from there: all else stands in the checkpoints, which have hashes. The
lines have none, so what they say is told as what was noted, and a file that cannot be read is said to be one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granet.runs import json_lines

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Speeds:
    """Images a second by epoch, from 1, for those that noted it; and what is wrong with the file, if anything is."""

    of_epochs: dict[int, float]
    fault: str | None = None


def read(folder: Path, *, step: int) -> Speeds:
    """What the run in ``folder`` noted up to ``step``; what lies past it may be done once more."""

    def take(entry: dict[str, Any]) -> tuple[int, float] | None:
        if type(entry.get("step")) is not int:
            raise ValueError("no step")
        if entry.get("event") != "epoch" or entry["step"] > step:
            return None
        epoch, speed = entry.get("epoch"), entry.get("images_per_second")
        if speed is None:  # nothing of this epoch was left to train when the run went on
            return None
        sensible = isinstance(speed, int | float) and not isinstance(speed, bool) and math.isfinite(speed) and speed > 0
        if type(epoch) is not int or not sensible:
            raise ValueError("no speed of an epoch")
        return epoch, float(speed)

    found, fault = json_lines.read(folder / METRICS, take)
    if found is None:
        return Speeds({}, fault or f"it has no {METRICS}, so its time is unknown")
    return Speeds(dict(found))
