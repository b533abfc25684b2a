"""Ctrl-C, SIGTERM and a closed terminal as a question that the loop asks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that answers True once SIGINT, SIGTERM or SIGHUP has come.

    Until it is asked for the first time nothing has begun that would have to be saved, and each of them raises
    KeyboardInterrupt at once: nobody has to wait until data are opened. After that the first one is only remembered,
    so that a step is finished and the state saved. A second SIGINT raises KeyboardInterrupt again; files are replaced
    atomically, so even that leaves the last checkpoint intact. A SIGHUP that is ignored, as under nohup, stays so.
    Only the main thread can use it.
    """
    asked = stopping = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not asked or (stopping and number == signal.SIGINT):
            signal.default_int_handler(number, frame)
        stopping = True

    def stop() -> bool:
        nonlocal asked
        asked = True
        return stopping

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
