"""Models measured against their controls, in fresh processes that are alive together and take turns.

A *generation* is one fresh process for each model. The processes are opened in random order, warmed up in turns, and
then measured in *blocks*: every model has a short burst of runs, in random order, and then another in the reverse
order, so that an even drift cancels. Only one process computes at a time. Generations follow until the intervals are
narrow or time is up.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from exporters.bench import clocks
from exporters.bench.process import DoesNotFitError, WorkerProcess
from exporters.bench.protocol import Opened, Spec
from exporters.bench.settings import BenchSettings
from exporters.bench.statistics import Ratio, block, is_warmed_up, ratio
from granet.errors import GranetError, counted

_OPENING_LIMIT = 900.0  # seconds
_MOST_RUNS = 1000
_MOST_WARM_UP = 10
_MOST_GENERATIONS = 50


@dataclass(frozen=True)
class Contender:
    """A model that takes part: its unique label, what its processes run, and the label of its control, if any."""

    label: str
    spec: Spec
    control: str | None


@dataclass
class Track:
    """Everything measured of one model, generation by generation."""

    entry: Contender
    times: list[float] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    blocks: list[list[float]] = field(default_factory=list)
    settled: list[bool] = field(default_factory=list)
    warm_up_runs: int = 0
    peak_memory: int = 0
    session_memory: int = 0
    device_memory: int | None = None
    failure: GranetError | None = None

    def ratio(self) -> Ratio | None:
        """Return the ratio to the control; None when the two could not be measured together."""
        return ratio(self.blocks) if any(self.blocks) else None


@dataclass(frozen=True)
class ComparisonOutcome:
    """All tracks of one comparison, and the clocks of the GPU meanwhile."""

    tracks: Mapping[str, Track]
    generations: int
    clocks: clocks.Clocks | None
    narrow: bool
    interrupted: bool


def start(entry: Contender) -> WorkerProcess:
    """Start a fresh process for ``entry``."""
    return WorkerProcess(where=entry.label)


def compare(
    entries: Sequence[Contender],
    settings: BenchSettings,
    *,
    gpu: clocks.Gpu | None = None,
    start: Callable[[Contender], WorkerProcess] = start,
    say: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> ComparisonOutcome:
    """Measure ``entries`` together, in at least ``settings.processes`` generations.

    A model that fails takes no further part; its error is in its track. Ctrl-C ends the measurement and keeps what was
    measured. No process is left when this returns.
    """
    tracks = {entry.label: Track(entry) for entry in entries}
    order = random.Random(settings.seed)  # noqa: S311  turns, not secrets
    samples: list[clocks.Sample] = []
    begin, generations, narrow, interrupted = clock(), 0, False, False
    try:
        while _continues(tracks, settings, generations, clock() - begin, narrow=narrow):
            share = settings.time_limit / settings.processes
            end = clock() + share
            with _generation(tracks, settings, order, gpu, start) as turns:
                for number in range(settings.blocks):
                    # A second block is worth having, unless the first one took as long as all should.
                    if number and clock() > end + share * (number == 1):
                        break
                    turns.block()
                    if gpu is not None:
                        samples.append(gpu.sample())
            generations += 1
            ratios = [found for track in tracks.values() if track.failure is None and (found := track.ratio())]
            narrow = all(is_narrow(found, settings) for found in ratios)
            width = max((found.width for found in ratios), default=1.0)
            known = f", ratios known to {100 * width:.1f} %" if width < 1.0 else ""
            say(f"process {generations} of each done{known}")
    except KeyboardInterrupt:
        interrupted = True
    return ComparisonOutcome(tracks, generations, clocks.summarise(samples), narrow, interrupted)


def is_narrow(found: Ratio, settings: BenchSettings) -> bool:
    """Return whether an interval is as narrow as asked, or a tenth of the difference that it shows."""
    return bool(found.width <= max(settings.width, abs(np.log(found.value)) / 10))


def _continues(
    tracks: Mapping[str, Track], settings: BenchSettings, generations: int, elapsed: float, *, narrow: bool
) -> bool:
    if all(track.failure for track in tracks.values()) or generations >= _MOST_GENERATIONS:
        return False
    if generations < settings.processes:
        return True
    # The next generation takes as long as the ones before.
    return not narrow and elapsed * (1 + 1 / generations) <= settings.time_limit


@contextlib.contextmanager
def _generation(
    tracks: Mapping[str, Track],
    settings: BenchSettings,
    order: random.Random,
    gpu: clocks.Gpu | None,
    start: Callable[[Contender], WorkerProcess],
) -> Iterator[_Turns]:
    """Open and warm up a process for each model, and close them all in the end."""
    turns = _Turns(tracks, settings, order)
    labels = [label for label, track in tracks.items() if track.failure is None]
    order.shuffle(labels)
    try:
        for label in labels:
            track = tracks[label]
            used = gpu.used_memory() if gpu is not None else None
            process = turns.processes[label] = start(track.entry)
            try:
                track.opened.append(process.open(track.entry.spec, limit=_OPENING_LIMIT))
            except GranetError as error:
                turns.remove(label, _with_others(error, len(turns.processes) - 1))
                continue
            track.blocks.append([])
            if gpu is not None and used is not None and (now := gpu.used_memory()) is not None:
                track.device_memory = max(track.device_memory or 0, now - used)
        turns.warm_up()
        yield turns
        turns.read_memory()
    finally:
        for process in turns.processes.values():
            process.close()


def _with_others(error: GranetError, others: int) -> GranetError:
    """Add to an error of memory how many other processes were open, which may be the reason."""
    if not isinstance(error, DoesNotFitError) or not others:
        return error
    return DoesNotFitError(f"{error}, beside {counted(others, 'other')} that were open at the same time")


class _Turns:
    """The processes of one generation."""

    def __init__(self, tracks: Mapping[str, Track], settings: BenchSettings, order: random.Random) -> None:
        self._tracks, self._settings, self._order = tracks, settings, order
        self.processes: dict[str, WorkerProcess] = {}
        self._runs: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        """Of one run, as warm-up ended."""

    def warm_up(self) -> None:
        """Run bursts in turns until the times of each model settle, within one and ten times the warm-up time."""
        spent = dict.fromkeys(self.processes, 0.0)
        medians: dict[str, list[float]] = {label: [] for label in self.processes}
        waiting = list(self.processes)
        while waiting:
            for label in list(waiting):
                times = self._burst(label, self._runs.get(label, 1))
                if times is None:
                    waiting.remove(label)
                    continue
                track = self._tracks[label]
                track.warm_up_runs += len(times)
                spent[label] += sum(times)
                medians[label].append(float(np.median(times)))
                runs = round(self._settings.burst / max(medians[label][-1], 1e-9))
                self._runs[label] = max(1, min(_MOST_RUNS, runs))
                warm = spent[label] >= self._settings.warm_up and is_warmed_up(medians[label])
                if warm or spent[label] >= _MOST_WARM_UP * self._settings.warm_up:
                    track.settled.append(warm)
                    self._seconds[label] = medians[label][-1]
                    waiting.remove(label)

    def block(self) -> None:
        """Run two bursts of each model, and add the ratio of each to its control."""
        labels = list(self.processes)
        self._order.shuffle(labels)
        medians: dict[str, list[float]] = {label: [] for label in labels}
        for label in [*labels, *reversed(labels)]:
            if label not in self.processes:
                continue
            runs = self._runs[label]
            times = self._burst(label, runs, drop=int(runs > 1))  # the first one meets the caches of the others
            if times is not None:
                self._tracks[label].times += times
                medians[label].append(float(np.median(times)))
        for label in labels:
            mine, control = medians[label], medians.get(self._tracks[label].entry.control or "", [])
            if len(mine) == len(control) == 2:
                self._tracks[label].blocks[-1].append(block(mine, control))

    def read_memory(self) -> None:
        """Ask each process for its memory."""
        for label, process in list(self.processes.items()):
            try:
                peak, before = process.memory()
            except GranetError as error:
                self.remove(label, error)
                continue
            track = self._tracks[label]
            track.peak_memory = max(track.peak_memory, peak)
            track.session_memory = max(track.session_memory, peak - before)

    def remove(self, label: str, error: GranetError) -> None:
        """Close the process of a model that failed; the others continue."""
        self._tracks[label].failure = error
        self.processes.pop(label).close()

    def _burst(self, label: str, runs: int, drop: int = 0) -> list[float] | None:
        limit = 120.0 + 100.0 * (runs + drop) * self._seconds.get(label, 1.0)
        try:
            return self.processes[label].burst(runs, drop=drop, limit=limit)
        except GranetError as error:
            self.remove(label, error)
            return None
