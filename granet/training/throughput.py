"""How fast training goes, and when progress is due to be reported."""

from __future__ import annotations

import time

PROGRESS_SECONDS = 0.5
"""Seconds between two reports of progress. A report waits for the device, so it is rare."""


class Throughput:
    """Steps a second of one stretch of training, without the evaluations and saves between stretches."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._since = self._reported = 0.0

    def restart(self, step: int) -> None:
        """Begin a stretch after ``step`` steps."""
        self._step = step
        self._since = self._reported = time.monotonic()

    def report_due(self) -> bool:
        """Return whether the last report is ``PROGRESS_SECONDS`` ago, and if so count this one as made."""
        due = time.monotonic() - self._reported >= PROGRESS_SECONDS
        if due:
            self._reported = time.monotonic()
        return due

    def steps_per_second(self, step: int) -> float | None:
        """Return the steps a second since the stretch began; None when there was none."""
        if self._step is None or step == self._step:
            return None
        return (step - self._step) / max(time.monotonic() - self._since, 1e-9)
