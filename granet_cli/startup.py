"""Faster start-up: garbage collection is rare until a command has imported what it needs.

Importing torch makes half a million objects that all stay. Scanning them for garbage, again and again while they
become more, takes a quarter of the time from the command to the first step of training.
"""

from __future__ import annotations

import gc

_SELDOM = (200_000, 50, 50)
_usual: tuple[int, int, int] | None = None


def defer_garbage_collection() -> None:
    """Make garbage collection rare: two hundred times as late, until ``restore_garbage_collection`` is called."""
    global _usual  # noqa: PLW0603  there is one collector in a process
    _usual = gc.get_threshold()
    gc.set_threshold(*_SELDOM)


def restore_garbage_collection() -> None:
    """Restore normal garbage collection, exempting objects that exist by now; do nothing the second time."""
    global _usual  # noqa: PLW0603
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None
