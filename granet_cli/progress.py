"""Progress of training: a live display on a terminal, plain lines everywhere else.

Output never stops training. When the reader of a pipe goes away, as ``tee`` does at Ctrl-C, or a log can take no
more, because its disk is full or its terminal gone, the run continues in silence and saves its state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
def training_display(
    screen: Screen, *, stopping: Callable[[], bool], device_asked: str
) -> Iterator[Callable[[Event], None]]:
    """Yield the function that shows events of training.

    Args:
        screen: where to write.
        stopping: whether the user has asked to stop; the display confirms it.
        device_asked: the value of ``--device``.
    """
    with showing(screen, (_TrainingTable if screen.live else _TrainingLines)(screen, stopping, device_asked)) as show:
        yield show


class Display(Protocol):
    """Shows events."""

    def show(self, event: Any) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the screen as it should stay."""


@contextmanager
def showing(screen: Screen, display: Display) -> Iterator[Callable[[Any], None]]:
    """Yield a function that passes events to ``display`` and goes silent once the screen cannot be written any more."""

    def show(event: Any) -> None:
        startup.restore_garbage_collection()  # whoever has an event to show has imported all it needs
        if not screen.quiet:
            try:
                display.show(event)
            except (ReaderGone, OSError):
                screen.quiet = True

    try:
        yield show
    finally:
        with suppress(ReaderGone, OSError):
            display.close()


@dataclass(frozen=True)
class Progress:
    """Progress of a task: label, share done, estimated time left, facts to show.

    Attributes:
        label: what is being done.
        share: how much of it is done, 0 to 1.
        seconds_left: an estimate, None where there is none yet.
        facts: names and values for the line below the bar.
    """

    label: str
    share: float
    seconds_left: float | None = None
    facts: Sequence[tuple[str, str]] = ()


class Footer:
    """Two lines at the bottom of a terminal that are written over: a progress bar, and facts."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool], progress: Callable[[], Progress]) -> None:
        self._screen, self._stopping, self._progress = screen, stopping, progress
        self._live: Live | None = None

    def start(self) -> None:
        """Show the two lines from now on."""
        self._live = Live(console=self._screen, get_renderable=self._lines, transient=True, refresh_per_second=4)
        self._live.start()

    def stop(self) -> None:
        """Remove the two lines; do nothing if they are not shown."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _lines(self) -> Text | Group:
        now = self._progress()
        first = Text("stopping: " if self._stopping() else "", style="bold yellow")
        first.append(f"{now.label}  ", style="not bold default")
        last = f" {now.share:4.0%}" + ("" if now.seconds_left is None else f"  {duration(now.seconds_left)} left")
        room = min(self._screen.width, 120) - first.cell_len - len(last) - 1
        first.append(bar(now.share, max(room, 8), self._screen)).append(last)
        if not now.facts:
            return first
        second = Text(no_wrap=True, overflow="ellipsis")
        for name, value in now.facts:
            second.append(f"{name} ", style=FAINT).append(f"{value}  ")
        return Group(first, second)


class _TrainingLines:
    """Plain lines: at the start, after each epoch, and every ten seconds in between."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool], device_asked: str) -> None:
        self.screen, self.stopping, self.device_asked = screen, stopping, device_asked
        self.run: Started | None = None
        self._written = time.monotonic()

    def show(self, event: Event) -> None:
        """Show an event, if it is of a kind that is shown."""
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
        """Write what is going to be done, and where."""
        where = f"training on the {run.device}, {run.precision}"
        if run.ranks > 1:
            where = f"training on {run.ranks} ranks, the first on the {run.device}, {run.precision}"
        self.line(f"no GPU found: {where}" if not run.on_gpu and self.device_asked == "auto" else where)
        train, validation, test = (run.examples[split] for split in ("train", "validation", "test"))
        self.line(
            f"{train:,} images to train on, {validation:,} to validate, {test:,} to test; "
            f"{run.steps_per_epoch:,} steps an epoch"
        )
        for note in run.notes:
            self.line(note)
        if run.step:
            self.line(f"continuing after step {run.step:,} of {run.total_steps:,}, at density {run.density:.4f}")

    def resized(self, event: Resized) -> None:
        """Write that the number of ranks has changed."""
        self.line(f"{event.now} ranks where there were {event.before}: {event.changes}")

    def progress(self, event: Progressed) -> None:
        """Write how far the epoch is, if the last line is old."""
        if self.run and time.monotonic() - self._written >= PLAIN_SECONDS:
            self.line(
                f"epoch {event.epoch}/{self.run.epochs}, step {event.step}/{self.run.total_steps}: "
                f"loss {event.loss:.4f}, accuracy {percent(event.accuracy)}, density {event.density:.4f}, "
                f"{event.images_per_second:.0f} images/s, {duration(event.seconds_left)} left"
            )

    def epoch(self, event: EpochEnded) -> None:
        """Write the figures of an epoch."""
        speed = f", {event.images_per_second:.0f} images/s" if event.images_per_second is not None else ""
        self.line(
            f"epoch {event.epoch}/{self.run.epochs if self.run else '?'}: loss {event.loss:.4f}, "
            f"accuracy {percent(event.accuracy)}, validation {percent(event.validation_accuracy)}, "
            f"density {event.density:.4f}{speed}{', best so far' if event.best else ''}"
        )

    def round(self, event: RoundEnded) -> None:
        """Write the figures of a round."""
        row = event.row
        self.line(
            f"round {row.round} of {event.rounds} is done: density {row.density:.4f}, "
            f"validation {percent(row.validation_accuracy)}, test {percent(row.test_accuracy)}"
        )

    def line(self, text: str | Text) -> None:
        """Write a line."""
        self.screen.prose(text)
        self._written = time.monotonic()

    def close(self) -> None:
        """Do nothing: lines stay."""


class _TrainingTable(_TrainingLines):
    """A table that grows by a row an epoch, above a footer."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool], device_asked: str) -> None:
        super().__init__(screen, stopping, device_asked)
        self._latest: Progressed | None = None
        self._footer = Footer(screen, stopping, self._progress)

    def begin(self, run: Started) -> None:
        """Write the heading and start the footer; neither when all steps are done."""
        self.close()  # of the round before
        self._latest = None
        super().begin(run)
        if run.step == run.total_steps:
            return
        self.line("")
        self.line(Text(_HEADING, style="bold"))
        self._footer.start()

    def progress(self, event: Progressed) -> None:
        """Keep the event for the next refresh."""
        self._latest = event

    def epoch(self, event: EpochEnded) -> None:
        """Write a row of the table."""
        speed = "" if event.images_per_second is None else short(event.images_per_second)
        row = Text(f"{event.epoch:5}  {event.loss:7.4f}  {percent(event.accuracy):>8}  ")
        row.append(f"{percent(event.validation_accuracy):>10}", style="bold green" if event.best else "")
        row.append(f"  {event.density:7.4f}  {speed:>8}").append("  best so far" if event.best else "", style=FAINT)
        self.line(row)

    def close(self) -> None:
        """Remove the footer."""
        self._footer.stop()

    def _progress(self) -> Progress:
        run, now = self.run, self._latest
        assert run is not None  # noqa: S101  the footer starts with the run
        epoch = now.epoch if now else min(run.step // run.steps_per_epoch + 1, run.epochs)
        label = f"epoch {epoch}/{run.epochs}"
        if now is None:
            return Progress(label, run.step / run.total_steps)
        facts = (
            ("step", f"{now.step:,}/{run.total_steps:,}"),
            ("loss", f"{now.loss:.4f}"),
            ("accuracy", percent(now.accuracy)),
            ("density", f"{now.density:.4f}"),
            ("images/s", short(now.images_per_second)),
        )
        return Progress(label, now.step / run.total_steps, now.seconds_left, facts)
