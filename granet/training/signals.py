"""What happens at Ctrl-C, SIGTERM or a closed terminal.

1. ``stop_on_signals`` remembers the signal, and the ``stop`` function that it yields returns True from then on.
2. ``Trainer`` asks ``stop`` after every step, ``evaluate`` before every batch. On several ranks ``World.stop_on_all``
   makes all of them stop after the same step. The trainer then raises ``Interrupted``.
3. ``Trainer._finish`` catches it, saves the state as ``last.safetensors``, and raises it again once that is on disk.
4. The command (``granet_cli/train/command.py`` and others) prints how to resume, and exits with code 130.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Context that yields a function which returns True once SIGINT, SIGTERM or SIGHUP has come.

    Until the function is called for the first time there is nothing to save, and a signal raises KeyboardInterrupt at
    once, so that nobody has to wait until data are opened. After that the first signal is only remembered, and a second
    SIGINT raises KeyboardInterrupt; files are replaced atomically, so even that leaves the last checkpoint intact. A
    SIGHUP that is ignored, as under nohup, stays ignored. Only the main thread can use this.

    Args:
        patient: for one of several ranks. Before the first call signals have their default effect, because an exception
            would not reach a rank that waits for others in foreign code. A second SIGINT is remembered like the first,
            because torchrun passes on a Ctrl-C that the terminal may already have sent to its processes.
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
            install()
        asked = True
        return stopping

    before: dict[int, Any] = {}

    def install() -> None:
        before.update({number: signal.signal(number, remember) for number in numbers})

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    if not patient:
        install()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # torchrun tells the rest to end once one has; a process that ends anyway need not be killed by that.
            signal.signal(number, signal.SIG_IGN if patient and stopping else handler)
