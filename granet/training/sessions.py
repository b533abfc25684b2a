"""Where and when a run was trained: a line in sessions.jsonl for each time that it was begun or gone on with.

It is beside the checkpoints and not in them, so that equal runs have equal checkpoints wherever they were made. Nothing
but reports reads it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from granet.files.atomic import file_errors
from granet.runs.events import Event, Started
from granet.runs.folder import RunFolder
from granet.runs.machine import processor


def noted(watch: Callable[[Event], None]) -> Callable[[Event], None]:
    """``watch``, which sessions are noted before it is told of."""

    def both(event: Event) -> None:
        if isinstance(event, Started) and event.step < event.total_steps:
            _note(event)
        watch(event)

    return both


def _note(event: Started) -> None:
    """Adds a line to the file in the folder of the run.

    Raises:
        FileError: it cannot be written.
    """
    line = {
        "step": event.step,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": event.device,
        "precision": event.precision,
        "ranks": event.ranks,
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "granet": version("granet"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    path = RunFolder(event.folder).sessions_file
    with file_errors(path, "where the run is trained could not be written"), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
