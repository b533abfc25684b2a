"""How fast training goes, for whoever waits."""

from __future__ import annotations

import time

TELL_SECONDS = 0.5
"""How often progress is worth telling. Telling waits for the device, so it is rare."""


class Pace:
    """A stopwatch over one stretch of training; evaluation and saving between stretches do not count."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._since = self._told = 0.0

    def restart(self, step: int) -> None:
        """A stretch begins after ``step`` steps."""
        self._step = step
        self._since = self._told = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to tell progress again."""
        return time.monotonic() - self._told >= TELL_SECONDS

    def tell(self, step: int) -> float:
        """Notes that progress is told now and returns the steps a second of this stretch."""
        self._told = time.monotonic()
        return self.steps_per_second(step) or 0.0

    def steps_per_second(self, step: int) -> float | None:
        """Steps a second since the stretch began; None when there was none."""
        if self._step is None or step == self._step:
            return None
        return (step - self._step) / max(time.monotonic() - self._since, 1e-9)
