"""metrics.jsonl: what a run noted of its epochs, updates and test, with times.

Reports read only the speed of training from it; all else is in the checkpoints, which have hashes. A file that cannot
be read is a note in a report, not an error.
"""

from __future__ import annotations

import json
import math
from typing import Any

from granet.files import atomic
from granet.runs import json_lines
from granet.runs.folder import RunFolder


def read_speeds(folder: RunFolder, *, step: int) -> tuple[dict[int, float], str | None]:
    """Return the images per second of each epoch, from 1, up to ``step``, and what is wrong with the file or None.

    A resumed run repeats later epochs.
    """

    def take(entry: dict[str, Any]) -> tuple[int, float] | None:
        if type(entry.get("step")) is not int:
            raise ValueError("no step")
        if entry.get("event") != "epoch" or entry["step"] > step:
            return None
        epoch, speed = entry.get("epoch"), entry.get("images_per_second")
        if speed is None:  # the run was resumed where this epoch was trained but not validated
            return None
        sensible = isinstance(speed, int | float) and not isinstance(speed, bool) and math.isfinite(speed) and speed > 0
        if type(epoch) is not int or not sensible:
            raise ValueError("no speed of an epoch")
        return epoch, float(speed)

    found, fault = json_lines.read(folder.metrics_file, take)
    if found is None:
        return {}, fault or f"it has no {folder.metrics_file.name}, so its time is unknown"
    return dict(found), None


def remove_later(folder: RunFolder, *, step: int, epochs: int, tested: bool) -> None:
    """Remove the lines of work that a resumed run repeats: past ``step`` or so many epochs, or the test.

    Raises:
        FileError: the file cannot be written.
    """
    if not folder.metrics_file.exists():
        return
    lines = []
    for line in folder.metrics_file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            repeated = (
                entry["step"] > step
                or (entry["event"] == "epoch" and entry["epoch"] > epochs)
                or (entry["event"] == "test" and not tested)
            )
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill
        if not repeated:
            lines.append(line + "\n")
    atomic.write(folder.metrics_file, "".join(lines).encode())
