"""Ctrl-C and SIGTERM as a question that the loop asks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that answers True once SIGINT or SIGTERM has come.

    The first signal is only remembered, so that a step is finished and the state saved. A second SIGINT raises
    KeyboardInterrupt at once; files are replaced atomically, so even that leaves the last checkpoint intact. Only the
    main thread can use it.
    """
    stopping = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        stopping = True

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
