"""A grid of cells, watched: a table that grows above a bar on a terminal, a line for each cell everywhere else.

As in ``granet_cli.progress``, output never stops the work: when nobody reads any more, it goes on in silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from granet_cli.progress import telling
from granet_cli.render import FAINT, Screen, bar, duration, percent

if TYPE_CHECKING:
    from granet.plasticity.experiment import CellEnded, CellStarted, Event

_HEADING = "   seed   epoch    rate  regeneration   before   pruned    after  plasticity"


@contextmanager
def shown(screen: Screen, *, stopping: Callable[[], bool]) -> Iterator[Callable[[Event], None]]:
    """Yields the function to tell events to; ``stopping`` is whether the user has asked to stop."""
    with telling(screen, (_Live if screen.live else _Plain)(screen, stopping)) as tell:
        yield tell


class _Plain:
    """A line at the start and after each cell."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool]) -> None:
        self.screen, self.stopping = screen, stopping
        self.done = self.found = self.total = 0
        self.part = 0.0
        self.current: CellStarted | None = None
        self._begun = time.monotonic()

    def tell(self, event: Event) -> None:
        """Shows an event."""
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
    def left(self) -> float | None:
        """Seconds to the end, as the cells of this process have taken; None before anything was done."""
        worked = self.done + self.part - self.found
        if worked <= 0:
            return None
        return (time.monotonic() - self._begun) * (self.total - self.done - self.part) / worked

    def begin(self) -> None:
        """What is there already."""
        if self.found:
            self.screen.prose(f"{self.found} of {self.total} cells are there already")

    def ended(self, event: CellEnded) -> None:
        """A line."""
        cell = event.cell
        after = "training diverged" if cell.after is None else f"after {percent(cell.after)}"
        self.screen.prose(
            f"cell {event.number}/{event.total}: seed {cell.seed}, epoch {cell.epoch:.4g}, rate {cell.rate:g}, "
            f"{cell.regeneration}: before {percent(cell.before)}, pruned {percent(cell.pruned)}, {after}; "
            f"{duration(self.left or 0)} left"
        )

    def close(self) -> None:
        """Nothing is left over."""


class _Live(_Plain):
    """A table that grows by a row a cell, above two lines that are written over."""

    def __init__(self, screen: Screen, stopping: Callable[[], bool]) -> None:
        super().__init__(screen, stopping)
        self._live: Live | None = None

    def begin(self) -> None:
        """The heading of the table and the two lines under it; neither when nothing lacks."""
        super().begin()
        if self.found == self.total:
            return
        self.screen.print(Text(_HEADING, style="bold"))
        self._live = Live(console=self.screen, get_renderable=self._view, transient=True, refresh_per_second=4)
        self._live.start()

    def ended(self, event: CellEnded) -> None:
        """A row of the table."""
        cell = event.cell
        row = Text(f"{cell.seed:7}  {cell.epoch:6.4g}  {cell.rate:6.4g}  {cell.regeneration:12}  ")
        row.append(f"{percent(cell.before):>7}  {percent(cell.pruned):>7}  ")
        if cell.after is None or cell.plasticity is None:
            row.append("diverged")
        else:
            row.append(f"{percent(cell.after):>7}  {100 * cell.plasticity:+10.2f}")
        self.screen.print(row)

    def close(self) -> None:
        """Takes the two lines away."""
        if self._live is not None:
            self._live.stop()

    def _view(self) -> Text | Group:
        share = (self.done + self.part) / self.total
        first = Text("stopping: " if self.stopping() else "", style="bold yellow")
        first.append(f"cell {min(self.done + 1, self.total)}/{self.total}  ", style="not bold default")
        last = f" {share:4.0%}" + ("" if self.left is None else f"  {duration(self.left)} left")
        first.append(bar(share, max(min(self.screen.width, 120) - first.cell_len - len(last) - 1, 8), self.screen))
        first.append(last)
        if self.current is None:
            return first
        job = self.current.job
        second = Text(no_wrap=True, overflow="ellipsis")
        facts = (
            ("checkpoint", str(job.source.path)),
            ("rate", f"{job.rate:g}"),
            ("regeneration", job.regeneration),
            ("trained", f"{self.part:.0%}"),
        )
        for name, value in facts:
            second.append(f"{name} ", style=FAINT).append(f"{value}  ")
        return Group(first, second)
