"""Training, watched: a live display on a terminal, plain lines everywhere else.

Output never stops training. When the reader of a pipe goes away, as ``tee`` does at Ctrl-C, or a log can take no
more, because its disk is full or its terminal gone, the run goes on in silence and saves its state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.text import Text

from granet_cli import startup
from granet_cli.render import FAINT, ReaderGone, Screen, bar, duration, percent, short

if TYPE_CHECKING:
    from granet.runs.events import EpochEnded, Event, Progressed, Resized, RoundEnded, Started

PLAIN_SECONDS = 10.0
"""How often a line of progress is written where nothing can be written over."""

_HEADING = "epoch     loss  accuracy  validation  density  images/s"


@contextmanager
def shown(screen: Screen, *, stopping: Callable[[], bool], device_asked: str) -> Iterator[Callable[[Event], None]]:
    """Yields the function to tell events to.

    Args:
        screen: where to write.
        stopping: whether the user has asked to stop, so that the display can say that it was heard.
        device_asked: what ``--device`` said.
    """
    with telling(screen, (_Live if screen.live else _Plain)(screen, stopping, device_asked)) as tell:
        yield tell


class Display(Protocol):
    """What shows events."""

    def tell(self, event: Any) -> None:
        """Shows one."""

    def close(self) -> None:
        """Leaves the screen as it should stay."""


@contextmanager
def telling(screen: Screen, display: Display) -> Iterator[Callable[[Any], None]]:
    """Yields the function that has ``display`` show an event, as long as somebody reads the screen."""

    def tell(event: Any) -> None:
        startup.over()  # whoever has something to tell has imported all it needs
        if not screen.quiet:
            try:
                display.tell(event)
            except (ReaderGone, OSError):
                screen.quiet = True

    try:
        yield tell
    finally:
        with suppress(ReaderGone, OSError):
            display.close()


class _Plain:
    """A line at the start, after each epoch and now and then in between."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool], device_asked: str) -> None:
        self.screen, self.stopping, self.device_asked = screen, stopping, device_asked
        self.run: Started | None = None
        self._told = time.monotonic()

    def tell(self, event: Event) -> None:
        """Shows an event, if it is one of those that are shown."""
        from granet.runs import events

        match event:
            case events.RoundStarted():
                self.line(f"round {event.round} of {event.rounds}: density {event.density:.4f} -> {event.folder}")
            case events.RoundEnded():
                self.round(event)
            case events.Started():
                self.run = event
                self.begin(event)
            case events.Resized():
                self.resized(event)
            case events.Progressed():
                self.progress(event)
            case events.EpochEnded():
                self.epoch(event)
            case _:
                pass

    def begin(self, run: Started) -> None:
        """What is going to be done, and where."""
        place = f"training on the {run.device}, {run.precision}"
        if run.ranks > 1:
            place = f"training on {run.ranks} ranks, the first on the {run.device}, {run.precision}"
        self.line(f"no GPU found: {place}" if not run.on_gpu and self.device_asked == "auto" else place)
        train, validation, test = (run.examples[split] for split in ("train", "validation", "test"))
        self.line(
            f"{train:,} images to train on, {validation:,} to validate, {test:,} to test; "
            f"{run.steps_per_epoch:,} steps an epoch"
        )
        for note in run.notes:
            self.line(note)
        if run.step:
            self.line(f"going on after step {run.step:,} of {run.total_steps:,}, at density {run.density:.4f}")

    def resized(self, event: Resized) -> None:
        """A line."""
        self.line(f"{event.now} ranks where there were {event.before}: {event.changes}")

    def progress(self, event: Progressed) -> None:
        """A line when the last one is old."""
        if self.run and time.monotonic() - self._told >= PLAIN_SECONDS:
            self.line(
                f"epoch {event.epoch}/{self.run.epochs}, step {event.step}/{self.run.total_steps}: "
                f"loss {event.loss:.4f}, accuracy {percent(event.accuracy)}, density {event.density:.4f}, "
                f"{event.images_per_second:.0f} images/s, {duration(event.seconds_left)} left"
            )

    def epoch(self, event: EpochEnded) -> None:
        """A line."""
        speed = f", {event.images_per_second:.0f} images/s" if event.images_per_second is not None else ""
        self.line(
            f"epoch {event.epoch}/{self.run.epochs if self.run else '?'}: loss {event.loss:.4f}, "
            f"accuracy {percent(event.accuracy)}, validation {percent(event.validation_accuracy)}, "
            f"density {event.density:.4f}{speed}{', best so far' if event.best else ''}"
        )

    def round(self, event: RoundEnded) -> None:
        """A line."""
        row = event.row
        self.line(
            f"round {row.round} of {event.rounds} is done: density {row.density:.4f}, "
            f"validation {percent(row.validation_accuracy)}, test {percent(row.test_accuracy)}"
        )

    def line(self, text: str | Text) -> None:
        """Writes one."""
        self.screen.prose(text)
        self._told = time.monotonic()

    def close(self) -> None:
        """Nothing is left over."""


class _Live(_Plain):
    """A table that grows by a row an epoch, above two lines that are written over."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool], device_asked: str) -> None:
        super().__init__(screen, stopping, device_asked)
        self._latest: Progressed | None = None
        self._live: Live | None = None

    def begin(self, run: Started) -> None:
        """The heading of the table, and the two lines under it; neither when all steps are done."""
        self.close()  # of the round before
        self._live = self._latest = None
        super().begin(run)
        if run.step == run.total_steps:
            return
        self.line("")
        self.line(Text(_HEADING, style="bold"))
        self._live = Live(console=self.screen, get_renderable=self._view, transient=True, refresh_per_second=4)
        self._live.start()

    def progress(self, event: Progressed) -> None:
        """For the next refresh."""
        self._latest = event

    def epoch(self, event: EpochEnded) -> None:
        """A row of the table."""
        speed = "" if event.images_per_second is None else short(event.images_per_second)
        row = Text(f"{event.epoch:5}  {event.loss:7.4f}  {percent(event.accuracy):>8}  ")
        row.append(f"{percent(event.validation_accuracy):>10}", style="bold green" if event.best else "")
        row.append(f"  {event.density:7.4f}  {speed:>8}").append("  best so far" if event.best else "", style=FAINT)
        self.line(row)

    def close(self) -> None:
        """Takes the two lines away."""
        if self._live is not None:
            self._live.stop()

    def _view(self) -> Text | Group:
        run, now = self.run, self._latest
        if run is None:
            return Text()
        step = now.step if now else run.step
        done = step / run.total_steps
        first = Text("stopping: " if self.stopping() else "", style="bold yellow")
        epoch = now.epoch if now else min(run.step // run.steps_per_epoch + 1, run.epochs)
        first.append(f"epoch {epoch}/{run.epochs}  ", style="not bold default")
        last = f" {done:4.0%}  {duration(now.seconds_left)} left" if now else f" {done:4.0%}"
        first.append(bar(done, max(min(self.screen.width, 120) - first.cell_len - len(last) - 1, 8), self.screen))
        first.append(last)
        if now is None:
            return first
        facts = (
            ("step", f"{step:,}/{run.total_steps:,}"),
            ("loss", f"{now.loss:.4f}"),
            ("accuracy", percent(now.accuracy)),
            ("density", f"{now.density:.4f}"),
            ("images/s", short(now.images_per_second)),
        )
        second = Text(no_wrap=True, overflow="ellipsis")
        for name, value in facts:
            second.append(f"{name} ", style=FAINT).append(f"{value}  ")
        return Group(first, second)
