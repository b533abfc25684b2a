"""sessions.jsonl: where and when a run was trained, one line each time it was begun or resumed.

It is not part of the checkpoints, so that equal runs have equal checkpoints wherever they were made. Only reports read
it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from granet.runs import json_lines
from granet.runs.events import Event, Started, Watch
from granet.runs.folder import RunFolder
from granet.runs.machine import processor

KEYS = ("device", "precision", "ranks", "processor", "cores", "system", "granet", "torch", "Python")
"""What is noted of each session, besides its step and time."""


@dataclass(frozen=True, kw_only=True)
class RunSession:
    """A stretch of training in one process, or in several that trained together."""

    step: int
    """Optimizer steps that were done before it."""
    time: str | None
    """When it began, UTC, ISO 8601."""
    facts: Mapping[str, str | int | float]
    """Those of ``KEYS`` that were noted."""


def recording(watch: Watch) -> Watch:
    """Return a watcher that writes a line for each session, and passes every event on to ``watch``.

    It raises FileError when the line cannot be written.
    """

    def record(event: Event) -> None:
        if isinstance(event, Started) and event.step < event.total_steps:
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
            json_lines.append(path, line, failed="where the run is trained could not be written")
        watch(event)

    return record


def read(folder: RunFolder, *, step: int) -> tuple[tuple[RunSession, ...], str | None]:
    """Return the sessions of a run up to ``step``, and what is wrong with the file if anything is.

    A run that the command line did not train, or an older granet did, has no such file, and no sessions.
    """

    def take(entry: dict[str, Any]) -> RunSession | None:
        begun, time = entry.get("step"), entry.get("time")
        if type(begun) is not int or not isinstance(time, str | None):
            raise ValueError("no session")
        facts = {key: value for key in KEYS if isinstance(value := entry.get(key), str | int | float)}
        return RunSession(step=begun, time=time, facts=facts) if begun <= step else None

    found, fault = json_lines.read(folder.sessions_file, take)
    return tuple(found or ()), fault
