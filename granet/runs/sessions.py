"""Where and when a run was trained, from the lines that it noted in sessions.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granet.runs import json_lines

SESSIONS = "sessions.jsonl"

KEYS = ("device", "precision", "ranks", "processor", "cores", "system", "granet", "torch", "Python")
"""What is noted of each session besides its step and time."""


@dataclass(frozen=True, kw_only=True)
class RunSession:
    """A stretch of training in one process, or in several that trained together."""

    step: int
    """Optimizer steps that were done before it."""
    time: str | None
    """When it began, UTC, ISO 8601."""
    facts: Mapping[str, str | int | float]
    """Those of ``KEYS`` that were noted."""


def read(folder: Path, *, step: int) -> tuple[tuple[RunSession, ...], str | None]:
    """The sessions up to ``step`` of the run in ``folder``, and what is wrong with the file if anything is.

    A run that was not trained by the command line, or by an older granet, has no such file, and no sessions.
    """

    def take(entry: dict[str, Any]) -> RunSession | None:
        at, time = entry.get("step"), entry.get("time")
        if type(at) is not int or not isinstance(time, str | None):
            raise ValueError("no session")
        facts = {key: value for key in KEYS if isinstance(value := entry.get(key), str | int | float)}
        return RunSession(step=at, time=time, facts=facts) if at <= step else None

    found, fault = json_lines.read(folder / SESSIONS, take)
    return tuple(found or ()), fault
