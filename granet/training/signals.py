"""Ctrl-C, SIGTERM and a closed terminal as a question that the loop asks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Yields a function that answers True once SIGINT, SIGTERM or SIGHUP has come.

    Until it is asked for the first time nothing has begun that would have to be saved, and each of them raises
    KeyboardInterrupt at once: nobody has to wait until data are opened. After that the first one is only remembered,
    so that a step is finished and the state saved. A second SIGINT raises KeyboardInterrupt again; files are replaced
    atomically, so even that leaves the last checkpoint intact. A SIGHUP that is ignored, as under nohup, stays so.

    One of several ranks is ``patient``. Until it is asked signals do what they do to any process: one that waits for
    others, in foreign code, would not hear of an exception. And a second SIGINT is remembered like the first, because
    torchrun sends on a Ctrl-C that the terminal may have told its processes already.

    Only the main thread can use it.
    """
    asked = stopping = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not asked or (stopping and number == signal.SIGINT and not patient):
            signal.default_int_handler(number, frame)
        stopping = True

    def stop() -> bool:
        nonlocal asked
        if not asked and patient:
            listen()
        asked = True
        return stopping

    before: dict[int, Any] = {}

    def listen() -> None:
        before.update({number: signal.signal(number, remember) for number in numbers})

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    if not patient:
        listen()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # torchrun tells the rest to end once one has; a process that ends anyway need not be killed by that.
            signal.signal(number, signal.SIG_IGN if patient and stopping else handler)
