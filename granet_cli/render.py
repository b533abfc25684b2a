"""Terminal output: text for people, with colour and widths on a terminal only, and JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

ACCENT = "cyan"
FAINT = "bright_black"


class ReaderGone(Exception):  # noqa: N818  nobody's error: `granet inspect FILE | head` has seen enough
    """The reader of our output has closed it."""


class Screen(Console):
    """The console of a command: a terminal, a file or a pipe. Text is written as it is, never read as markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """Whether lines can be written over. FORCE_COLOR asks for colours, not for that."""
        return self.file.isatty() and not self.is_dumb_terminal

    @property
    def columns(self) -> int | None:
        """The width that lines should fit; None in a file or a pipe, where lines may have any length."""
        return self.width if self.file.isatty() else None

    @property
    def colourful(self) -> bool:
        """Whether colours can tell things apart."""
        return self.color_system is not None and not self.no_color

    def prose(self, text: str | Text) -> None:
        """Write sentences, broken between words where there is a width."""
        text = text if isinstance(text, Text) else Text(printable(text))
        self.print(text, soft_wrap=self.columns is None)

    def heading(self, title: object, remark: str) -> None:
        """Write what is shown, in bold, and a remark on it."""
        self.print(Text(printable(title), style="bold").append(f"  {remark}", style=f"not bold {FAINT}"))

    def facts(self, facts: Iterable[tuple[str, str]], *, width: int = 10) -> None:
        """Write a line for each name and value, with names padded to ``width``."""
        for name, value in facts:
            self.print(Text(f"{printable(name):<{width}}", style=FAINT).append(printable(value), style="default"))

    def notes(self, notes: Iterable[str]) -> None:
        """Write a line for each note on what is shown."""
        for note in notes:
            self.prose(Text(f"note: {printable(note)}", style="yellow"))

    def on_broken_pipe(self) -> NoReturn:
        """Discard buffered output and raise ``ReaderGone``."""
        silence()
        raise ReaderGone


def silence() -> None:
    """Discard all output that is still buffered for a closed pipe, also at the interpreter's exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say(message: str, *, command: str | None = None) -> None:
    """Write a remark, and a command to copy, to standard error."""
    screen = Screen(stderr=True)
    screen.prose(message)
    if command is not None:
        screen.print(Text(f"  {printable(command)}", style="bold"))


def print_json(value: Any) -> None:
    """Write ``value`` as JSON to standard output. Numbers that are not finite become null."""
    Screen().out(json.dumps(_finite(value), indent=2, allow_nan=False), highlight=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def printable(text: object) -> str:
    """Escape characters that would control a terminal: names in files are untrusted."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


def common_folder(paths: Iterable[str]) -> str:
    """Return the innermost folder that all ``paths`` are in, with its separator, or nothing."""
    common = os.path.commonprefix(list(paths))  # noqa: RUF071  a prefix of characters, cut back to a folder
    return common[: common.rfind("/") + 1]


def bar(share: float, width: int, screen: Screen) -> Text:
    """Draw ``share`` (0 to 1) as a bar of ``width`` characters, never empty above 0."""
    if screen.columns is None:
        return Text("#" * max(round(share * width), share > 0))
    halves = max(round(share * width * 2), share > 0)
    filled = "━" * (halves // 2) + "╸" * (halves % 2)
    rest = "━" if screen.colourful else " "  # without colours a trough would look like a full bar
    return Text(filled, style=ACCENT).append(rest * (width - len(filled)), style=FAINT)


def short(number: float) -> str:
    """Format a count in at most five characters: 432, 36.9k, 2.36M."""
    for unit, scale in (("", 1), ("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12)):
        if number < 999.5 * scale:
            scaled = number / scale
            decimals = 0 if not unit else 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{decimals}f}{unit}"
    return f"{number:.1e}"


def size(count: int) -> str:
    """Format a number of bytes as 812 bytes, 41.0 KB, 1.2 MB; a KB is 1000 bytes."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def setting(value: object) -> str:
    """Format the value of a setting."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(setting, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else printable(value)


def percent(share: float) -> str:
    """Format a share in per cent with two decimals, for accuracies: 93.42%."""
    return f"{100 * share:.2f}%"


def duration(seconds: float) -> str:
    """Format seconds as 1:23, 1:02:03 or 2 d 1:02:03."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{rest:02d}" if hours or days else f"{minutes}:{rest:02d}"
    return f"{days} d {clock}" if days else clock
