"""Progress of the plasticity experiment: a table above a progress bar on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from granet_cli.progress import Footer, Progress, showing
from granet_cli.render import Screen, duration, percent

if TYPE_CHECKING:
    from granet.plasticity.experiment import CellEnded, CellStarted, Event

_HEADING = "   seed   epoch    rate  regeneration   before   pruned    after  plasticity"


@contextmanager
def grid_display(screen: Screen, *, stopping: Callable[[], bool]) -> Iterator[Callable[[Event], None]]:
    """Yield the function that shows events; ``stopping`` is whether the user has asked to stop."""
    with showing(screen, (_CellTable if screen.live else _CellLines)(screen, stopping)) as show:
        yield show


class _CellLines:
    """Plain lines: at the start and after each cell."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool]) -> None:
        self.screen, self.stopping = screen, stopping
        self.done = self.found = self.total = 0
        self.part = 0.0
        self.current: CellStarted | None = None
        self._begun = time.monotonic()

    def show(self, event: Event) -> None:
        """Show an event."""
        from granet.plasticity import experiment
        from granet.plasticity.cell import CellProgressed

        match event:
            case experiment.GridStarted():
                self.done = self.found = event.done
                self.total = event.total
                self._begun = time.monotonic()
                self.begin()
            case experiment.CellStarted():
                self.current = event
            case CellProgressed():
                self.part = event.steps / event.total
            case experiment.CellEnded():
                self.done, self.part = event.number, 0.0
                self.ended(event)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end, estimated from the cells of this process; None before the first has begun."""
        worked = self.done + self.part - self.found
        if worked <= 0:
            return None
        return (time.monotonic() - self._begun) * (self.total - self.done - self.part) / worked

    def begin(self) -> None:
        """Write how many cells are done already."""
        if self.found:
            self.screen.prose(f"{self.found} of {self.total} cells are there already")

    def ended(self, event: CellEnded) -> None:
        """Write a line about a finished cell."""
        cell = event.cell
        after = "training diverged" if cell.after is None else f"after {percent(cell.after)}"
        self.screen.prose(
            f"cell {event.number}/{event.total}: seed {cell.seed}, epoch {cell.epoch:.4g}, rate {cell.rate:g}, "
            f"{cell.regeneration}: before {percent(cell.before)}, pruned {percent(cell.pruned)}, {after}; "
            f"{duration(self.seconds_left or 0)} left"
        )

    def close(self) -> None:
        """Do nothing: lines stay."""


class _CellTable(_CellLines):
    """A table that grows by a row a cell, above a footer."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool]) -> None:
        super().__init__(screen, stopping)
        self._footer = Footer(screen, stopping, self._progress)

    def begin(self) -> None:
        """Write the heading and start the footer; neither when no cell is missing."""
        super().begin()
        if self.found < self.total:
            self.screen.print(Text(_HEADING, style="bold"))
            self._footer.start()

    def ended(self, event: CellEnded) -> None:
        """Write a row of the table."""
        cell = event.cell
        row = Text(f"{cell.seed:7}  {cell.epoch:6.4g}  {cell.rate:6.4g}  {cell.regeneration:12}  ")
        row.append(f"{percent(cell.before):>7}  {percent(cell.pruned):>7}  ")
        if cell.after is None or cell.plasticity is None:
            row.append("diverged")
        else:
            row.append(f"{percent(cell.after):>7}  {100 * cell.plasticity:+10.2f}")
        self.screen.print(row)

    def close(self) -> None:
        """Remove the footer."""
        self._footer.stop()

    def _progress(self) -> Progress:
        label = f"cell {min(self.done + 1, self.total)}/{self.total}"
        share = (self.done + self.part) / self.total
        if self.current is None:
            return Progress(label, share, self.seconds_left)
        job = self.current.job
        facts = (
            ("checkpoint", str(job.source.path)),
            ("rate", f"{job.rate:g}"),
            ("regeneration", job.regeneration),
            ("trained", f"{self.part:.0%}"),
        )
        return Progress(label, share, self.seconds_left, facts)
